// SPDX-License-Identifier: GPL-2.0
/*
 * In place of transport_ring.c and side_ring.c, where linux/fuse.h does not know
 * of the managed ring: mainline's, from 6.14 on.
 */

#include <stdlib.h>

#include "internal.h"

int ring_setup(struct server *srv)
{
	(void)srv;
	return server_refuse("built without the managed ring");
}

void ring_free(struct server *srv)
{
	(void)srv;
}

const struct fuse_uring_setup *ring_granted(struct server *srv)
{
	(void)srv;
	return NULL;
}

bool ring_needs_reader(struct server *srv)
{
	(void)srv;
	return false;
}

bool ring_notifies(struct server *srv)
{
	(void)srv;
	return false;
}

int ring_notify(struct server *srv, const struct fuse_out_header *msg)
{
	(void)srv;
	(void)msg;
	return -EOPNOTSUPP;
}

int ring_notify_start(struct server_req *req, struct fuse_out_header *msg,
		      __u64 tag)
{
	(void)req;
	(void)tag;
	free(msg);
	return -EOPNOTSUPP;
}

int server_raw_cmd(struct server_req *req, __u32 cmd_op,
		   const struct fuse_uring_slot_cmd *cmd, __u64 tag)
{
	(void)req;
	(void)cmd_op;
	(void)cmd;
	(void)tag;
	return -EOPNOTSUPP;
}

int server_detach(struct server *srv)
{
	(void)srv;
	return -EOPNOTSUPP;
}

int server_attach(struct server *srv)
{
	(void)srv;
	return -EOPNOTSUPP;
}
