/* SPDX-License-Identifier: GPL-2.0 */
/* For tests with variants that run whole servers. */
#ifndef FUSE_TEST_TRANSPORTS_H
#define FUSE_TEST_TRANSPORTS_H

#include "common.h"
#include "server.h"

/* How a server for such a variant is to be started. */
static inline enum server_transport
transport_server(enum test_transport transport)
{
	switch (transport) {
	case TRANSPORT_RING:
		return SERVER_RING;
	case TRANSPORT_USER:
		return SERVER_USER;
	default:
		return SERVER_DEV;
	}
}

#endif
