// SPDX-License-Identifier: GPL-2.0
/* The FUSE server as a program: options, and nothing else.  See server.h. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include "options.h"
#include "server.h"
#include "util.h"

static const char help[] =
"Usage: fuse_uringd [options] MOUNTPOINT\n"
"Serves a FUSE filesystem over io_uring or over /dev/fuse.\n"
"\n"
"  --fs=mem                a tree in memory (default)\n"
"  --fs=passthrough:DIR    the tree below DIR\n"
"  --fs=null[:SIZE]        a file \"null\" of SIZE bytes that do not matter, to\n"
"                          measure the rest with (default 1G)\n"
"  --transport=ring        managed ring (default)\n"
"  --transport=user        ring with buffers of the server, as Linux has it\n"
"                          from 6.14 on; /dev/fuse if there is none\n"
"  --transport=dev         read and write\n"
"  -f, --foreground        stay; otherwise leave when the mount is ready\n"
"  -o OPT[,OPT...]         mount options: ro, suid, dev, noexec, noatime,\n"
"                          sync, dirsync and what FUSE knows (allow_other,\n"
"                          default_permissions, max_read=N, ...)\n"
"  --writeback             let the kernel cache writes\n"
"  --max-write=SIZE        largest WRITE\n"
"  --valid=MS              how long the kernel may believe what it was told\n"
"                          of names and attributes (default 1000)\n"
"  --restart               when the server is killed, start another one that\n"
"                          takes over; not with --fs=mem.  Of DIR, files that\n"
"                          were removed while they are open get lost, and so\n"
"                          do locks; needs root and file handles.\n"
"  --stats=FILE            at the end, write numbers of requests to FILE\n"
"  --debug                 print every request (with -f)\n"
"\n"
"Ring, all as the kernel prefers when not given:\n"
"  --queues=N              number of queues\n"
"  --depth=N               requests at a time per queue\n"
"  --background=N          how many of these may be background requests\n"
"  --payload=SIZE          data that a request can carry\n"
"  --small=SIZE            data that a slot has room of its own for\n"
"  --pool=SIZE             a queue's memory for requests with more data\n"
"  --own-cpus              queues only for the CPUs that the server may run on\n"
"  --control=N             slots per queue for FORGET and INTERRUPT\n"
"                          (default 2)\n"
"  --no-control            read FORGET and INTERRUPT from /dev/fuse\n"
"  --threads-per-queue=N   threads that share a queue (default 1)\n"
"  --no-bind               let threads run on other CPUs than their queue's\n"
"With --transport=user, queues are for the first N CPUs, or all (which mainline\n"
"waits for), their depth is 8 when not given, and --background, --small, --pool,\n"
"--control and --no-control do nothing.\n"
"\n"
"/dev/fuse:\n"
"  --threads=N             number of threads (default: number of CPUs)\n"
"  --no-clone              all threads share one descriptor\n"
"\n"
"  --help                  this text\n"
"\n"
"SIZE is in bytes, or with K, M or G behind it in those units.\n";

static const char *stats_file;

/* Some mount options are flags of mount(2), the rest is for FUSE */
static void mount_options(struct server_opts *opts, char *text)
{
	static const struct {
		const char *name;
		unsigned long set, clear;
	} flags[] = {
		{ "ro", MS_RDONLY, 0 },
		{ "rw", 0, MS_RDONLY },
		{ "suid", 0, MS_NOSUID },
		{ "nosuid", MS_NOSUID, 0 },
		{ "dev", 0, MS_NODEV },
		{ "nodev", MS_NODEV, 0 },
		{ "exec", 0, MS_NOEXEC },
		{ "noexec", MS_NOEXEC, 0 },
		{ "noatime", MS_NOATIME, 0 },
		{ "sync", MS_SYNCHRONOUS, 0 },
		{ "dirsync", MS_DIRSYNC, 0 },
	};
	static char rest[512];
	char *opt, *save;
	unsigned int i;

	for (opt = strtok_r(text, ",", &save); opt;
	     opt = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < ARRAY_SIZE(flags); i++)
			if (!strcmp(opt, flags[i].name))
				break;
		if (i < ARRAY_SIZE(flags)) {
			opts->mount_flags &= ~flags[i].clear;
			opts->mount_flags |= flags[i].set;
			continue;
		}
		if (strlen(rest) + strlen(opt) + 2 > sizeof(rest))
			errx(1, "-o: too many options");
		if (*rest)
			strcat(rest, ",");
		strcat(rest, opt);
	}
	opts->mount_opts = rest;
}

static struct server_fs *make_fs(const char *text, bool restart)
{
	struct server_fs *fs;

	if (!strcmp(text, "mem")) {
		fs = fs_mem_new();
	} else if (!strncmp(text, "passthrough:", 12)) {
		fs = fs_passthrough_new(text + 12, restart);
		if (!fs)
			errx(1, "%s: %m", text + 12);
	} else if (!strcmp(text, "null")) {
		fs = fs_null_new(1ULL << 30);
	} else if (!strncmp(text, "null:", 5)) {
		fs = fs_null_new(parse_number("--fs", text + 5, 0, INT64_MAX));
	} else {
		errx(1, "--fs: there is no filesystem '%s'", text);
	}
	if (!fs)
		errx(1, "out of memory");
	return fs;
}

static enum server_transport parse_transport(const char *text)
{
	unsigned int i;

	for (i = 0; i < SERVER_TRANSPORTS; i++)
		if (!strcmp(text, server_transport_name(i)))
			return i;
	errx(1, "--transport: '%s' is none of ring, user and dev", text);
}

static void write_stats(struct server *srv)
{
	FILE *f = fopen(stats_file, "we");
	__u64 sum, count;
	__u32 op;
	int by;

	if (!f) {
		perror(stats_file);
		return;
	}
	for (by = 0; by < SERVER_TRANSPORTS; by++) {
		sum = 0;
		for (op = 0; op < PROTO_NR_OPS; op++) {
			count = server_count(srv, by, op);
			sum += count;
			if (count)
				fprintf(f, "%s %s %llu\n",
					server_transport_name(by),
					proto_op_name(op),
					(unsigned long long)count);
		}
		fprintf(f, "%s total %llu\n", server_transport_name(by),
			(unsigned long long)sum);
	}
	if (fclose(f))
		perror(stats_file);
}

enum {
	OPT_FS = 256, OPT_TRANSPORT, OPT_WRITEBACK, OPT_MAX_WRITE, OPT_VALID,
	OPT_RESTART, OPT_STATS, OPT_DEBUG, OPT_QUEUES, OPT_DEPTH,
	OPT_BACKGROUND, OPT_PAYLOAD, OPT_SMALL, OPT_POOL, OPT_OWN_CPUS,
	OPT_CONTROL, OPT_NO_CONTROL, OPT_TPQ, OPT_NO_BIND, OPT_THREADS,
	OPT_NO_CLONE, OPT_HELP,
};

static const struct option options[] = {
	{ "fs", required_argument, NULL, OPT_FS },
	{ "transport", required_argument, NULL, OPT_TRANSPORT },
	{ "foreground", no_argument, NULL, 'f' },
	{ "writeback", no_argument, NULL, OPT_WRITEBACK },
	{ "max-write", required_argument, NULL, OPT_MAX_WRITE },
	{ "valid", required_argument, NULL, OPT_VALID },
	{ "stats", required_argument, NULL, OPT_STATS },
	{ "restart", no_argument, NULL, OPT_RESTART },
	{ "debug", no_argument, NULL, OPT_DEBUG },
	{ "queues", required_argument, NULL, OPT_QUEUES },
	{ "depth", required_argument, NULL, OPT_DEPTH },
	{ "background", required_argument, NULL, OPT_BACKGROUND },
	{ "payload", required_argument, NULL, OPT_PAYLOAD },
	{ "small", required_argument, NULL, OPT_SMALL },
	{ "pool", required_argument, NULL, OPT_POOL },
	{ "own-cpus", no_argument, NULL, OPT_OWN_CPUS },
	{ "control", required_argument, NULL, OPT_CONTROL },
	{ "no-control", no_argument, NULL, OPT_NO_CONTROL },
	{ "threads-per-queue", required_argument, NULL, OPT_TPQ },
	{ "no-bind", no_argument, NULL, OPT_NO_BIND },
	{ "threads", required_argument, NULL, OPT_THREADS },
	{ "no-clone", no_argument, NULL, OPT_NO_CLONE },
	{ "help", no_argument, NULL, OPT_HELP },
	{ }
};

int main(int argc, char **argv)
{
	struct server_opts opts = {
		.transport = SERVER_RING,
		.fall_back = true,
		.mount_flags = MS_NOSUID | MS_NODEV,
		.entry_valid_ms = 1000,
		.attr_valid_ms = 1000,
	};
	const char *fs = "mem";
	bool foreground = false, restart = false;
	int opt, ret;

	while ((opt = getopt_long(argc, argv, "o:f", options, NULL)) != -1) {
		switch (opt) {
		case OPT_FS:
			fs = optarg;
			break;
		case OPT_TRANSPORT:
			opts.transport = parse_transport(optarg);
			break;
		case 'f':
			foreground = true;
			break;
		case 'o':
			mount_options(&opts, optarg);
			break;
		case OPT_WRITEBACK:
			opts.init_set |= FUSE_WRITEBACK_CACHE;
			break;
		case OPT_MAX_WRITE:
			opts.max_write =
				parse_number("--max-write", optarg, 0, 1 << 30);
			break;
		case OPT_VALID:
			opts.entry_valid_ms =
				parse_number("--valid", optarg, 0, INT32_MAX);
			opts.attr_valid_ms = opts.entry_valid_ms;
			break;
		case OPT_STATS:
			stats_file = optarg;
			break;
		case OPT_RESTART:
			restart = true;
			break;
		case OPT_DEBUG:
			opts.debug = true;
			break;
		case OPT_QUEUES:
			opts.nr_queues =
				parse_number("--queues", optarg, 0, UINT16_MAX);
			break;
		case OPT_DEPTH:
			opts.queue_depth =
				parse_number("--depth", optarg, 0,
					     FUSE_URING_MAX_QUEUE_DEPTH);
			break;
		case OPT_BACKGROUND:
			opts.nr_background =
				parse_number("--background", optarg, 0,
					     FUSE_URING_MAX_QUEUE_DEPTH);
			break;
		case OPT_PAYLOAD:
			opts.payload_size =
				parse_number("--payload", optarg, 0, 1 << 30);
			break;
		case OPT_SMALL:
			opts.small_size =
				parse_number("--small", optarg, 0, 1 << 30);
			break;
		case OPT_POOL:
			opts.pool_size =
				parse_number("--pool", optarg, 0, 1 << 30);
			break;
		case OPT_OWN_CPUS:
			opts.own_cpus = true;
			break;
		case OPT_CONTROL:
			opts.nr_control = parse_number("--control", optarg, 0,
						       FUSE_URING_MAX_CONTROL);
			opts.no_control = !opts.nr_control;
			break;
		case OPT_NO_CONTROL:
			opts.no_control = true;
			break;
		case OPT_TPQ:
			opts.threads_per_queue =
				parse_number("--threads-per-queue", optarg, 0,
					     FUSE_URING_MAX_QUEUE_DEPTH);
			break;
		case OPT_NO_BIND:
			opts.no_bind = true;
			break;
		case OPT_THREADS:
			opts.nr_threads =
				parse_number("--threads", optarg, 0, 4096);
			break;
		case OPT_NO_CLONE:
			opts.no_clone = true;
			break;
		case OPT_HELP:
			fputs(help, stdout);
			return 0;
		default:
			errx(1, "--help tells the options");
		}
	}
	if (optind != argc - 1)
		errx(1, "one mount point is needed, --help tells more");
	opts.mountpoint = argv[optind];
	opts.fs = make_fs(fs, restart);
	if (restart) {
		opts.keep = server_keep_new();
		if (!opts.keep)
			err(1, "--restart");
	}
	if (stats_file) {
		int fd = open(stats_file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

		/* The daemon changes its directory, and now is the time to fail */
		if (fd < 0)
			errx(1, "%s: %m", stats_file);
		close(fd);
		stats_file = realpath(stats_file, NULL);
		if (!stats_file)
			errx(1, "%m");
		opts.at_exit = write_stats;
	}

	if (!foreground) {
		opts.detach = true;
		if (server_fork(&opts) < 0)
			errx(1, "%s", server_error());
		return 0;
	}

	if (restart) {
		ret = server_hold(&opts);
		if (ret < 0)
			errx(1, "%s", server_error());
		return ret;
	}

	ret = server_run(&opts);
	if (ret < 0)
		errx(1, "%s", server_error());
	fs_free(opts.fs);
	if (ret)
		errx(1, "the filesystem was busy, so its connection was cut");
	return 0;
}
