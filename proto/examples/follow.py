#!/usr/bin/python3
"""Appends every event of a collector to a file: none is missed and none is there twice, whoever is restarted.

    protoc -I proto --python_out=DIR --grpc_python_out=DIR --plugin=protoc-gen-grpc_python=$(which grpc_python_plugin) \
        proto/podtrail/v1/podtrail.proto
    PYTHONPATH=DIR proto/examples/follow.py 127.0.0.1:7443 NAME events.jsonl [CA.pem CERT.pem KEY.pem]

A line is {"cursor": …, "event": …}: event and place are written together, so the last whole line says where to go on.
"""
import json, os, queue, sys, time

import grpc
from google.protobuf.json_format import MessageToDict
from podtrail.v1 import podtrail_pb2 as v1, podtrail_pb2_grpc as rpc

AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN)


def connect(address, files):
    options = [("grpc.max_receive_message_length", 32 << 20), ("grpc.keepalive_time_ms", 20_000),
               ("grpc.max_reconnect_backoff_ms", 2_000), ("grpc.initial_reconnect_backoff_ms", 100)]
    if not files:
        return grpc.insecure_channel(address, options)
    ca, cert, key = (open(file, "rb").read() for file in files)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options)


def last_cursor(out):
    """The cursor in the last whole line; what stands behind it is cut off."""
    end, cursor = 0, None
    out.seek(0)
    for line in out:
        if line.endswith(b"\n"):
            end, cursor = end + len(line), line
    out.truncate(end)
    out.seek(end)
    return json.loads(cursor)["cursor"] if cursor else None


def follow(stub, name, out):
    cursor = last_cursor(out)
    begin = v1.SubscribeOpen(name=name, gap_if_trimmed=True)
    if cursor:
        begin.cursor = cursor
    else:
        begin.oldest = True
    requests = queue.SimpleQueue()
    requests.put(v1.SubscribeRequest(open=begin))
    for response in stub.Subscribe(iter(requests.get, None), wait_for_ready=True):
        kind = response.WhichOneof("response")
        if kind == "opened":
            continue
        elif kind == "events":
            for event, cursor in zip(response.events.events, response.events.cursors):
                line = {"cursor": cursor, "event": MessageToDict(event)}
                out.write(json.dumps(line).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
        else:
            cursor = response.heartbeat.cursor
        requests.put(v1.SubscribeRequest(ack=v1.SubscribeAck(cursor=cursor)))


def main(address, name, path, *files):
    while True:
        with connect(address, files) as channel, open(path, "a+b") as out:
            try:
                follow(rpc.TrailStub(channel), name, out)
            except grpc.RpcError as error:
                if error.code() not in AGAIN:
                    sys.exit(f"follow: {error.code().name}: {error.details()!r}")
                time.sleep(0.2)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 7):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    main(*sys.argv[1:])
