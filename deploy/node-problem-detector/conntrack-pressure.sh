#!/bin/sh
# Connections that the node tracks: 0 there is room, 1 the table is nearly full, and new ones are dropped when it is; 2 nobody knows.
# The stock set tells of packets that were dropped already, by the kernel's log; this comes before.
#
#   conntrack-pressure.sh [PERCENT]     of nf_conntrack_max that may be in use: 90
#
# NETFILTER is for tests.
percent=${1:-90}
dir=${NETFILTER:-/proc/sys/net/netfilter}

# Without the module nothing is tracked, and nothing can be full.
if [ ! -e "$dir/nf_conntrack_max" ]; then
    echo "connections are not tracked"
    exit 0
fi
# By cat: /proc/sys gives a shell's `read` one byte, and no more.
if ! used=$(cat "$dir/nf_conntrack_count" 2>/dev/null) || ! max=$(cat "$dir/nf_conntrack_max" 2>/dev/null); then
    echo "$dir cannot be read"
    exit 2
fi
case "$used$max$percent" in
*[!0-9]*)
    echo "$dir, or the threshold, is no number"
    exit 2
    ;;
esac
if [ "${max:-0}" -eq 0 ]; then
    echo "connections are tracked without a limit"
    exit 0
fi
if [ $((used * 100)) -ge $((max * percent)) ]; then
    echo "$used of $max tracked connections"
    exit 1
fi
echo "$used of $max tracked connections"
exit 0
