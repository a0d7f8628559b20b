// SPDX-License-Identifier: GPL-2.0
/*
 * Whether the server of these tests does what it is told: by which transport it
 * serves, and what it does where the kernel has none like that.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"
#include "transports.h"

#define NO_IO_URING	"/proc/sys/kernel/io_uring_disabled"

FIXTURE(server)
{
	struct server_opts opts;
	struct server *srv;
	struct requester r;
};

FIXTURE_VARIANT(server)
{
	enum test_transport transport;
};

FIXTURE_VARIANT_ADD(server, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(server, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(server, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_SETUP(server)
{
	const char *why = test_prepare(variant->transport);

	if (why)
		SKIP(return, "%s", why);
	if (access(TEST_PARAM, F_OK))
		SKIP(return, "kernel without CONFIG_FUSE_IO_URING");
	self->opts = (struct server_opts){
		.mountpoint = TEST_MNT,
		.fs = fs_null_new(4096),
		.transport = transport_server(variant->transport),
	};
	ASSERT_NE(NULL, self->opts.fs);
}

FIXTURE_TEARDOWN(server)
{
	if (self->srv)
		EXPECT_EQ(0, server_stop(self->srv));
	EXPECT_EQ(0, file_write(NO_IO_URING, "0"));
	fs_free(self->opts.fs);
}

static int stat_null(const void *arg)
{
	struct stat st;

	return stat(TEST_MNT "/null", &st) ? -errno : 0;
}

/* Serves requests, and all LOOKUPs came by that transport. */
static void serves_by(struct __test_metadata *_metadata,
		      struct _test_data_server *self, enum server_transport by)
{
	int i, other;

	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, requester_start(&self->r, stat_null, NULL));
		EXPECT_EQ(0, requester_join(&self->r));
	}
	for (other = 0; other < SERVER_TRANSPORTS; other++) {
		__u64 nr = server_count(self->srv, other, FUSE_LOOKUP);

		EXPECT_EQ(other == (int)by, nr > 0)
			TH_LOG("%s: %llu", server_transport_name(other),
			       (unsigned long long)nr);
	}
}

TEST_F(server, serves)
{
	self->srv = server_start(&self->opts);
	ASSERT_NE(NULL, self->srv) TH_LOG("%s", server_error());
	EXPECT_EQ(self->opts.transport, server_options(self->srv)->transport);
	serves_by(_metadata, self, self->opts.transport);
	/* FUSE_INIT is known to come by the managed ring only. */
	EXPECT_EQ(1, server_count(self->srv,
				  variant->transport == TRANSPORT_RING ?
				  SERVER_RING : SERVER_DEV, FUSE_INIT));
}

TEST_F(server, one_queue_for_all)
{
	self->opts.nr_queues = 1;
	self->opts.queue_depth = 2;
	self->opts.threads_per_queue = 2;
	self->srv = server_start(&self->opts);
	ASSERT_NE(NULL, self->srv) TH_LOG("%s", server_error());
	serves_by(_metadata, self, self->opts.transport);
	if (transport_rings(variant->transport))
		EXPECT_EQ(1, ring_stat(conn_number(TEST_MNT), "queues_live"));
}

/* No ring of that kind is no server, and no mount. */
TEST_F(server, without_the_ring)
{
	ASSERT_EQ(0, ring_switch(false));
	self->srv = server_start(&self->opts);
	if (variant->transport == TRANSPORT_DEV) {
		ASSERT_NE(NULL, self->srv);
		serves_by(_metadata, self, SERVER_DEV);
	} else {
		EXPECT_EQ(EOPNOTSUPP, errno);
		ASSERT_EQ(NULL, self->srv);
		EXPECT_NE(NULL, strstr(server_error(), "enable_uring"));
		EXPECT_EQ(-ENOENT, conn_number(TEST_MNT));
	}
}

/* Unless another one is good enough. */
TEST_F(server, falls_back)
{
	ASSERT_EQ(0, ring_switch(false));
	self->opts.fall_back = true;
	self->srv = server_start(&self->opts);
	ASSERT_NE(NULL, self->srv) TH_LOG("%s", server_error());
	EXPECT_EQ(SERVER_DEV, server_options(self->srv)->transport);
	serves_by(_metadata, self, SERVER_DEV);
}

/* The administrator does not want io_urings. */
TEST_F(server, without_io_uring)
{
	const char *text;

	ASSERT_EQ(0, file_write(NO_IO_URING, "2"));
	self->srv = server_start(&self->opts);
	if (variant->transport == TRANSPORT_DEV) {
		ASSERT_NE(NULL, self->srv);
		return;
	}
	text = server_error();
	EXPECT_EQ(EPERM, errno);
	ASSERT_EQ(NULL, self->srv);
	EXPECT_NE(NULL, strstr(text, "io_uring_disabled")) TH_LOG("%s", text);
	EXPECT_EQ(-ENOENT, conn_number(TEST_MNT));

	self->opts.fall_back = true;
	self->srv = server_start(&self->opts);
	ASSERT_NE(NULL, self->srv) TH_LOG("%s", server_error());
	serves_by(_metadata, self, SERVER_DEV);
}

TEST_HARNESS_MAIN
