#!/bin/busybox sh
# The first process of the machine. What it says on ttyS1 is read by result.go; the kernel has ttyS0.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/tmp
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /run/netns
ip link set lo up
set -f # flags have patterns in them, but not of files
stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 2>&1 </dev/null
while read -r m; do
	insmod "/modules/$m" || echo "@@ failed insmod $m"
done </order
while read -r p; do
	echo "@@ begin $p"
	cd "/tests/$p" || continue
	# shellcheck disable=SC2046 # several flags
	./test -test.v=test2json $(cat /flags)
	printf '\n@@ end %s %s\n' "$p" $?
done </packages
echo "@@ done"
poweroff -f
