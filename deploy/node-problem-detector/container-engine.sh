#!/bin/sh
# The container runtime: 0 it answers, 1 it takes the question and does not answer in time, or is gone; 2 nobody knows.
# The stock health checker restarts a runtime that hangs; this one only tells, and works where there is no crictl in the image: give
# it the node's. CRICTL and SOCKETS are for that, and for tests.
crictl=${CRICTL:-crictl}
timeout=${TIMEOUT:-4}

if ! command -v "$crictl" >/dev/null || ! command -v timeout >/dev/null; then
    echo "crictl or timeout (coreutils) is missing"
    exit 2
fi
for socket in ${SOCKETS:-/run/containerd/containerd.sock /run/crio/crio.sock}; do
    [ -S "$socket" ] || continue
    # A list, and not its version: that one a runtime tells also while all that has to do with containers hangs.
    timeout "$timeout" "$crictl" --runtime-endpoint "unix://$socket" pods --quiet >/dev/null 2>&1
    case $? in
    0)
        echo "the container runtime at $socket answers"
        exit 0
        ;;
    124 | 137)
        echo "the container runtime at $socket does not answer within $timeout s"
        exit 1
        ;;
    *)
        echo "the container runtime at $socket cannot list its pods"
        exit 1
        ;;
    esac
done
echo "no container runtime listens"
exit 1
