#!/usr/bin/python3
"""cri.py SOCKET CONTAINERD: calls containerd's CRI, runtime.v1, over its unix socket.

Reads one JSON object a line, {"service": "RuntimeService", "method": "RunPodSandbox", "request": {...}}, and answers each with one
line: {"reply": {...}} or {"error": "CODE: text"}. Field names are the specification's (snake_case).

There is no .proto file to compile: every Go program that speaks gRPC carries its compressed descriptors, so the binary CONTAINERD says
itself which messages it understands.
"""

import json
import sys
import zlib

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

# A gzip header as Go's compressor writes it: deflate, no flags, no time.
GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
PACKAGE = "runtime.v1"
TIMEOUT_SECONDS = 60


def descriptors(program):
    """Every file descriptor in the bytes of a program that declares PACKAGE."""
    at = program.find(GZIP)
    while at >= 0:
        try:
            text = zlib.decompressobj(wbits=31).decompress(program[at : at + (1 << 20)])
            file = descriptor_pb2.FileDescriptorProto.FromString(text)
            if file.package == PACKAGE:
                yield file
        except Exception:
            pass  # Something else that begins as a gzip stream does.
        at = program.find(GZIP, at + 1)


def without_gogo(file):
    """The file without the generator's annotations, whose definitions would be needed otherwise; they do not change the wire."""
    del file.dependency[:]
    for message in file.message_type:
        message.ClearField("options")
        for field in message.field:
            field.ClearField("options")
    file.ClearField("options")
    return file


def load(path):
    """The pool of messages and services of PACKAGE."""
    with open(path, "rb") as program:
        file = next(descriptors(program.read()), None)
    if file is None:
        sys.exit(f"cri.py: {path} holds no descriptor of {PACKAGE}; is it containerd 1.6?")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(without_gogo(file))
    return pool


def message_class(descriptor):
    """The class of a message, by protobuf's old and its new spelling."""
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory().GetPrototype(descriptor)


def call(channel, pool, asked):
    """Carries out one call; returns the answer's object."""
    service = pool.FindServiceByName(f"{PACKAGE}.{asked['service']}")
    method = service.methods_by_name[asked["method"]]
    request = json_format.ParseDict(asked["request"], message_class(method.input_type)())
    unary = channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_class(method.output_type).FromString,
    )
    try:
        reply = unary(request, timeout=TIMEOUT_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        return {"error": f"{error.code().name}: {error.details()}"}
    return {"reply": json_format.MessageToDict(reply, preserving_proto_field_name=True)}


def main():
    socket, program = sys.argv[1:]
    pool = load(program)
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        for line in sys.stdin:
            print(json.dumps(call(channel, pool, json.loads(line))), flush=True)


main()
