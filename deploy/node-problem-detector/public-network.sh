#!/bin/bash
# Outbound traffic: 0 some address answers, 1 none does, 2 nobody knows.
#
#   public-network.sh HOST:PORT...     any of them that answers is enough; by default two public resolvers
#
# By TCP, since packets of ICMP are often not let out. One that refuses has answered: there is a way there.
timeout=${TIMEOUT:-2}
targets=("$@")
[ $# -gt 0 ] || targets=(1.1.1.1:443 8.8.8.8:443)

for target in "${targets[@]}"; do
    host=${target%:*}
    port=${target##*:}
    # What is put into the command below is an address and a number, and nothing else.
    if [[ ! $host =~ ^[A-Za-z0-9.:_-]+$ || ! $port =~ ^[0-9]+$ || $host == "$target" ]]; then
        echo "$target is no HOST:PORT"
        exit 2
    fi
done
if ! command -v timeout >/dev/null; then
    echo "timeout (coreutils) is missing"
    exit 2
fi
tried=
for target in "${targets[@]}"; do
    said=$(LC_ALL=C timeout "$timeout" bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "${target%:*}" "${target##*:}" 2>&1) && {
        echo "$target answers"
        exit 0
    }
    if [[ $said == *"Connection refused"* ]]; then
        echo "$target answers, by refusing"
        exit 0
    fi
    tried="$tried $target"
done
echo "no answer from$tried"
exit 1
