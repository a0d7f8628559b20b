#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# /dev/fuse against a ring: the same server, the same operations, in turn.

usage()
{
	cat <<END
Usage: fuse_bench.sh [options] [TEST...]
Mounts fuse_uringd over /dev/fuse and over a ring in turn, runs fuse_bench,
and prints the medians of each test:
compare NAME threads=T rounds=N dev_ns_per_op=N ring_ns_per_op=N ratio=R
where ratio is the ring's time or instructions by those of /dev/fuse.

  -r N    rounds (default 5)
  -t N    threads that do the operations at the same time (default 1)
  -n N    operations per thread (default: as many as a second has)
  -b      bind the threads to CPUs
  -T T    the ring: ring or user, as in fuse_uringd --transport (default ring);
          prints T_ns_per_op
  -f FS   filesystem, as in fuse_uringd --fs (default null)
  -d OPT  option for the servers of both transports, may be repeated
  -R OPT  option for the server of the ring, may be repeated
  -v      print every line of fuse_bench as well
  -h      this text
END
}

here=$(dirname "$0")
rounds=5
threads=1
fs=null
compared=ring
ops=
bind=
verbose=
both_opts=
ring_opts=

die()
{
	echo "fuse_bench.sh: $*" >&2
	exit 1
}

while getopts r:t:n:bT:f:d:R:vh opt; do
	case $opt in
	r) rounds=$OPTARG ;;
	t) threads=$OPTARG ;;
	n) ops="--ops=$OPTARG" ;;
	b) bind=--bind ;;
	T) compared=$OPTARG ;;
	f) fs=$OPTARG ;;
	d) both_opts="$both_opts $OPTARG" ;;
	R) ring_opts="$ring_opts $OPTARG" ;;
	v) verbose=y ;;
	h) usage; exit 0 ;;
	*) die "-h tells the options" ;;
	esac
done
shift $((OPTIND - 1))
case $compared in
ring|user) ;;
*) die "-T: '$compared' is neither ring nor user" ;;
esac
case $rounds in
''|*[!0-9]*|0) die "-r: '$rounds' is not a number of rounds" ;;
esac

work=$(mktemp -d) || exit 1
mnt=$work/mnt
mkdir "$mnt" || exit 1
cleanup()
{
	umount -l "$mnt" 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

round=0
while [ $round -lt "$rounds" ]; do
	for transport in dev $compared; do
		opts=$both_opts
		[ "$transport" = dev ] || opts="$opts $ring_opts"
		# Options are words, several of them maybe
		# shellcheck disable=SC2086
		"$here/fuse_uringd" --foreground --transport="$transport" \
			--fs="$fs" $opts "$mnt" &
		server=$!
		until grep -q " $mnt fuse" /proc/mounts; do
			kill -0 $server 2>/dev/null ||
				die "the server for $transport has ended"
			sleep 0.1
		done
		# shellcheck disable=SC2086
		"$here/fuse_bench" --threads="$threads" $ops $bind "$mnt" "$@" \
			> "$work/out" || die "fuse_bench failed over $transport"
		# The end of one server shall not fall into the measuring of
		# the next: wait for it, and for what the kernel still has to
		# do after that
		umount "$mnt" || exit 1
		wait $server || exit 1
		sleep 0.3
		[ -n "$verbose" ] && sed "s/^/$transport /" "$work/out"
		sed "s/^/$transport /" "$work/out" >> "$work/all"
	done
	round=$((round + 1))
done

# The middle one, or the mean of the two in the middle
median()
{
	sed -n "s/^$1 bench $2 .* ns_per_op=\([0-9]*\).*/\1/p" "$work/all" |
	sort -n |
	awk '{ v[NR] = $1 }
	     END { printf "%d", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}

sed -n 's/^dev bench \([^ ]*\) .*/\1/p' "$work/all" | sort -u > "$work/names"
while read -r name; do
	dev=$(median dev "$name")
	ring=$(median "$compared" "$name")
	ratio=$(awk "BEGIN { printf \"%.3f\", $ring / $dev }")
	echo "compare $name threads=$threads rounds=$rounds" \
	     "dev_ns_per_op=$dev ${compared}_ns_per_op=$ring ratio=$ratio"
done < "$work/names"
