// SPDX-License-Identifier: GPL-2.0
/*
 * A folder over FUSE, for idmapped mounts: idmapd dev|user[:DEPTH] DIR MOUNT
 *
 * libfuse does not know FUSE_ALLOW_IDMAP yet, nor does virtiofsd.  This is
 * fuse_uringd's passthrough with that said in the answer to FUSE_INIT.
 */
#include <err.h>
#include <stdlib.h>
#include <string.h>

#include <linux/fuse.h>

#include "server.h"

int main(int argc, char **argv)
{
	struct server_opts opts = {
		/* Without which the kernel does not take it */
		.mount_opts = "default_permissions,allow_other",
		.init_set = FUSE_ALLOW_IDMAP,
		.transport = SERVER_DEV,
	};
	int ret;

	if (argc != 4)
		errx(1, "idmapd dev|user[:DEPTH] DIR MOUNT");
	if (!strncmp(argv[1], "user", 4)) {
		opts.transport = SERVER_USER;
		if (argv[1][4] == ':')
			opts.queue_depth = atoi(argv[1] + 5);
	}
	opts.fs = fs_passthrough_new(argv[2], false);
	if (!opts.fs)
		err(1, "%s", argv[2]);
	opts.mountpoint = argv[3];
	ret = server_run(&opts);
	if (ret < 0)
		errx(1, "%s", server_error());
	return ret;
}
