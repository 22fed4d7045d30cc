#!/bin/sh
# File descriptors of the node: 0 there are enough, 1 there are few left, 2 nobody knows. One line, which becomes the condition's message.
#
#   fd-pressure.sh [PERCENT]     of fs.file-max that may be in use: 85
#
# FILE_NR is for tests.
percent=${1:-85}
file=${FILE_NR:-/proc/sys/fs/file-nr}

# In use, of those unused (always 0 since Linux 2.6), and the most. By cat: /proc/sys gives a shell's `read`, which asks for one
# byte after the other, the first and no more.
if ! said=$(cat "$file" 2>/dev/null); then
    echo "$file cannot be read"
    exit 2
fi
# shellcheck disable=SC2086
set -- $said
used=${1:-none} max=${3:-none}
case "$used$max$percent" in
*[!0-9]*)
    echo "$file, or the threshold, is no number"
    exit 2
    ;;
esac
# Where systemd has taken the limit away it is 2^63-1, more than a shell may multiply.
if [ "${#max}" -gt 12 ]; then
    echo "$used file descriptors in use, and no limit"
    exit 0
fi
if [ "$max" -eq 0 ]; then
    echo "$file says no limit"
    exit 2
fi
if [ $((used * 100)) -ge $((max * percent)) ]; then
    echo "$used of $max file descriptors in use"
    exit 1
fi
echo "$used of $max file descriptors in use"
exit 0
