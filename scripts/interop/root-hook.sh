#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Within the new root, once its packages are there: libfuse with io_uring, and what the work needs.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive HOME=/root

# Debian's own libfuse has no io_uring for want of two build dependencies; they are installed here.
mkdir -p /opt/libfuse /opt/src /opt/interop
cd /opt/src
apt-get -q update
apt-get -q source --download-only fuse3
dpkg-source -x fuse3_*.dsc fuse3
cd fuse3
DEB_BUILD_OPTIONS='nocheck parallel=2' DEB_BUILD_PROFILES='nocheck noudeb' dpkg-buildpackage -b -uc -us -d
cd ..
dpkg-deb -x libfuse3-4_*.deb /opt/libfuse
ln -s "usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)" /opt/libfuse/lib
ldd /opt/libfuse/lib/libfuse3.so.4 | grep liburing >/dev/null || { echo 'error: libfuse was built without liburing'; exit 1; }
mv fuse3/obj-* fuse3/obj
mkdir /opt/libfuse/example
find fuse3/obj/example -maxdepth 1 -type f -perm /111 -exec cp {} /opt/libfuse/example/ \;
dpkg-query -W -f '${source:Version}\n' libfuse3-4 >/opt/libfuse/version

# A repository with two commits, of C programs that build with tcc in seconds.
git config --global user.name interop
git config --global user.email interop@invalid
git config --global init.defaultBranch main
git config --global gc.auto 0
mkdir tree
cp -r fuse3/{include,lib,example,util} tree/
mkdir tree/test
cp fuse3/test/*.c tree/test/
cp fuse3/obj/*config.h tree/include/
cd tree
git init -q .
git add -A
git commit -qm 'the sources'
flags=(-D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=317 -Iinclude -Ilib)
builds() { tcc "${flags[@]}" "$@" 2>/dev/null; }
parts=() programs=()
for f in lib/*.c lib/modules/*.c; do
	! builds -c -o "${f%.c}.o" "$f" || parts+=("${f%.c}.o")
done
for f in example/{cuse,ioctl,poll}_client.c test/{test_syscalls,stracedecode}.c; do
	! builds -o "${f%.c}" "$f" || programs+=("${f%.c}")
done
git clean -qfdx
# shellcheck disable=SC2016 # make's own
printf 'CC = tcc\nCPPFLAGS = %s\nall: %s parts.a\nparts.a: %s\n\t$(CC) -ar rcs $@ $^\n' "${flags[*]}" "${programs[*]}" "${parts[*]}" >Makefile
git add -A
git commit -qm 'a way to build some of them'
make -s
if [ ! -x example/cuse_client ] || [ ${#parts[@]} -lt 4 ]; then
	echo "error: tcc builds only ${programs[*]} ${parts[*]}"
	exit 1
fi
cd ..
git clone -q --bare tree /opt/interop/tree.git

# A tree to read, its sums, and images of it.
data=/opt/interop/data
mkdir $data
cp -r fuse3/{lib,include,example,test,doc} $data/
find $data -name obj -prune -o -type l -exec rm {} +
python3 -c 'import random; random.seed(1); open("/opt/interop/data/large", "wb").write(random.randbytes(6 << 20))'
(cd $data && find . -type f -print0 | sort -z | xargs -0 sha256sum) >/opt/interop/manifest
mksquashfs $data /opt/interop/data.sqfs -quiet -no-progress -comp gzip
mkfs.erofs -zlz4 /opt/interop/data.erofs $data
xorriso -as mkisofs -quiet -R -o /opt/interop/data.iso $data
rm -rf fuse3_* tree ./*.deb fuse3/debian/{tmp,fuse3,libfuse3*,.debhelper}

# The host's virtiofsd: the program with its loader and libraries.
mkdir /virtiofsd
cp /usr/libexec/virtiofsd /virtiofsd/
ldd /usr/libexec/virtiofsd | sed -nE 's/.*=> (\/[^ ]+) .*/\1/p' | xargs -I{} cp -L {} /virtiofsd/
cp -L /lib64/ld-linux-x86-64.so.2 /virtiofsd/ld.so

# sshd takes root's key.
mkdir -p /root/.ssh /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
printf 'Host *\n\tStrictHostKeyChecking no\n\tUserKnownHostsFile /dev/null\n\tLogLevel ERROR\n' >/root/.ssh/config
useradd -m -s /bin/bash user
printf 'user_allow_other\n' >>/etc/fuse.conf
apt-get -q clean
rm -rf /var/lib/apt/lists/* /opt/root-hook.sh
