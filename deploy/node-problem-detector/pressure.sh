#!/bin/sh
# What a node has so much of and no more: 0 there is room, 1 there is little left, 2 nobody knows. One line, which becomes the condition's
# message.
#
#   pressure.sh fd [PERCENT]          file descriptors: of fs.file-max so much may be in use, 85
#   pressure.sh conntrack [PERCENT]   connections that the node tracks: of nf_conntrack_max, 90. New ones are dropped when it is full; the
#                                     stock set tells of packets that were dropped already, by the kernel's log
#
# FILE_NR and NETFILTER are for tests. By cat: /proc/sys gives a shell's `read`, which asks for one byte after the other, the first and no more.
unread=
case $1 in
fd)
    what="file descriptors in use" percent=${2:-85}
    from=${FILE_NR:-/proc/sys/fs/file-nr}
    said=$(cat "$from" 2>/dev/null) || unread=1
    # In use, of those unused (always 0 since Linux 2.6), and the most.
    # shellcheck disable=SC2086
    set -- $said
    used=${1:-none} max=${3:-none}
    # Nobody has taken all of them away.
    [ "$max" != 0 ] || max=none
    ;;
conntrack)
    what="tracked connections" percent=${2:-90}
    from=${NETFILTER:-/proc/sys/net/netfilter}
    # Without the module nothing is tracked, and nothing can be full.
    if [ ! -e "$from/nf_conntrack_max" ]; then
        echo "connections are not tracked"
        exit 0
    fi
    used=$(cat "$from/nf_conntrack_count" 2>/dev/null) && max=$(cat "$from/nf_conntrack_max" 2>/dev/null) || unread=1
    ;;
*)
    echo "neither fd nor conntrack: $1"
    exit 2
    ;;
esac
if [ -n "$unread" ]; then
    echo "$from cannot be read"
    exit 2
fi
case "${used:-none}${max:-none}$percent" in
*[!0-9]*)
    echo "$from, or the threshold, is no number"
    exit 2
    ;;
esac
# 0 is how netfilter says it. Where systemd has taken the limit of files away it is 2^63-1, more than a shell may multiply.
if [ "$max" -eq 0 ] || [ "${#max}" -gt 12 ]; then
    echo "$used $what, and no limit"
    exit 0
fi
if [ $((used * 100)) -ge $((max * percent)) ]; then
    echo "$used of $max $what"
    exit 1
fi
echo "$used of $max $what"
exit 0
