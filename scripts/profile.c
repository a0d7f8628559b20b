// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin for QEMU's TCG: how often was which instruction executed?  Writes
 * lines of "ADDRESS COUNT" at the end, to the file of the argument out=FILE.
 *
 * Debian ships no qemu-plugin.h, so what is used of it is declared here.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;

#define QEMU_PLUGIN_INLINE_ADD_U64	0

typedef void (*tb_trans_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*exit_cb)(qemu_plugin_id_t id, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_trans_cb cb);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op,
					      void *ptr, uint64_t imm);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, exit_cb cb, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
						 size_t nr);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

#define EXPORT	__attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 1;

/* Instructions that are always executed together */
struct block {
	struct block *next;
	uint64_t count;
	size_t nr;
	uint64_t addr[];
};

static struct block *blocks;
static const char *out = "profile.out";

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t i, nr = qemu_plugin_tb_n_insns(tb);
	struct block *b = calloc(1, sizeof(*b) + nr * sizeof(b->addr[0]));

	(void)id;
	if (!b)
		abort();
	b->nr = nr;
	for (i = 0; i < nr; i++)
		b->addr[i] = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, i));
	b->next = blocks;
	blocks = b;
	qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64,
						 &b->count, 1);
}

static void ended(qemu_plugin_id_t id, void *data)
{
	FILE *f = fopen(out, "w");
	const struct block *b;
	size_t i;

	(void)id;
	(void)data;
	if (!f)
		abort();
	for (b = blocks; b; b = b->next)
		for (i = 0; b->count && i < b->nr; i++)
			fprintf(f, "%" PRIx64 " %" PRIu64 "\n", b->addr[i], b->count);
	if (fclose(f))
		abort();
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
			       int argc, char **argv)
{
	(void)info;
	if (argc == 1 && !strncmp(argv[0], "out=", 4))
		out = strdup(argv[0] + 4);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
