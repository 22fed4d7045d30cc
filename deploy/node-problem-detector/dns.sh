#!/bin/sh
# The node's resolver: 0 it resolves some name, 1 it resolves none, 2 nobody knows.
#
#   dns.sh NAME...     any of them that is resolved is enough; by default two that are always there
#
# As programs of the node ask, by nsswitch.conf and resolv.conf. RESOLVE is for tests.
[ $# -gt 0 ] || set -- example.com kubernetes.io
resolve=${RESOLVE:-getent ahosts}

if ! command -v "${resolve%% *}" >/dev/null || ! command -v timeout >/dev/null; then
    echo "getent (libc-bin) or timeout (coreutils) is missing"
    exit 2
fi
for name; do
    # shellcheck disable=SC2086
    if timeout "${TIMEOUT:-2}" $resolve "$name" >/dev/null 2>&1; then
        echo "$name is resolved"
        exit 0
    fi
done
echo "the node resolves none of: $*"
exit 1
