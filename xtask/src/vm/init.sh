#!/bin/sh
# The init of the virtual machine: mounts what a node has, runs the tests, says how they ended.
bb=/bin/busybox
[ -x $bb ] || bb=/usr/bin/busybox
PATH=/sbin:/usr/sbin:/bin:/usr/bin
export PATH

# An initramfs cannot be pivoted away from, as runtimes do: all of it moves to a file system of its own first.
if [ "$1" != moved ]; then
    $bb mkdir -p /new
    $bb mount -t tmpfs -o size=80% root /new
    for part in bin sbin lib lib64 usr etc var root modules init podtrail-itest; do
        [ -e /$part ] && $bb cp -a /$part /new/
    done
    $bb mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run
    exec $bb switch_root /new /init moved
fi

$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
$bb mkdir -p /dev/pts /dev/shm
$bb mount -t devpts -o newinstance,ptmxmode=0666 pts /dev/pts
$bb mount -t tmpfs run /run
$bb mount -t tmpfs tmp /tmp
$bb mount -t tracefs tracefs /sys/kernel/tracing
$bb mount -t bpf bpf /sys/fs/bpf
$bb ln -sf /proc/self/fd /dev/fd
for module in /modules/*.ko; do
    [ -e "$module" ] && $bb insmod "$module"
done
$bb ip link set lo up

option() {
    for word in $($bb cat /proc/cmdline); do
        case $word in podtrail.$1=*) echo "${word#*=}" ;; esac
    done
}

mode=$(option cgroup)
case $mode in
v2)
    $bb mount -t cgroup2 cgroup2 /sys/fs/cgroup
    ;;
hybrid | v1)
    $bb mount -t tmpfs cgroup /sys/fs/cgroup
    for controller in $($bb awk 'NR > 1 && $4 == 1 { print $1 }' /proc/cgroups); do
        $bb mkdir /sys/fs/cgroup/$controller
        $bb mount -t cgroup -o $controller $controller /sys/fs/cgroup/$controller
    done
    $bb mkdir /sys/fs/cgroup/systemd
    $bb mount -t cgroup -o none,name=systemd systemd /sys/fs/cgroup/systemd
    if [ $mode = hybrid ]; then
        $bb mkdir /sys/fs/cgroup/unified
        $bb mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    fi
    ;;
esac

echo "podtrail-vm: init reached"
CI=true
PODTRAIL_ITEST_SLOW=$(option slow)
PODTRAIL_ITEST_AGENT="--setns $(option setns)"
PODTRAIL_ITEST_CONTAINERD=none
PODTRAIL_ITEST_ONLY=$(option only)
PODTRAIL_ITEST_WAYS=$(option ways)
export PODTRAIL_ITEST_ONLY PODTRAIL_ITEST_WAYS CI PODTRAIL_ITEST_SLOW PODTRAIL_ITEST_AGENT PODTRAIL_ITEST_CONTAINERD
case $(option job) in
costs)
    unset PODTRAIL_ITEST_AGENT
    /podtrail-itest helper hook-cost 2>&1
    ;;
*) /podtrail-itest --color never $(option tests) 2>&1 ;;
esac
echo "podtrail-vm: ended with $?"
$bb sync
$bb poweroff -f
