#!/bin/sh
# The first process of a kernel under test: makes a machine of it, runs the suite, and turns it off.
# What the tests print goes to the second serial port; the first is the kernel's.
/bin/busybox --install -s /bin
# Of two tests, one may wait while the other works.
export PATH=/bin HOME=/root RUST_TEST_THREADS=2

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
# Nothing over it: what was built may lie there.
chmod 1777 /tmp
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
ulimit -n 65536
for module in /modules/"$(uname -r)"/*; do
    insmod "$module"
done

exec >/dev/ttyS1 2>&1
echo "@kernel $(uname -r)"

failed=0
run() {
    echo "running $1"
    /tests/"$@" || failed=1
}
. /suite
echo "@ended $failed"
poweroff -f
