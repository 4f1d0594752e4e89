"""What a process says of its own contracts: names of services, and the files that describe them."""

from operator import methodcaller

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from nyquist.server.front.calls import Calls

STABLE = "grpc.reflection.v1.ServerReflection"


def describe(calls: Calls, *files: FileDescriptor) -> None:
    """Serve the description of the services of these files, of health and of reflection itself.

    Their stubs lie in two pools, ours and the process's default one. Reflection is served as v1,
    which no stub here has, and as v1alpha: they differ in their names alone.

    Args:
        calls: that serve it.
        *files: each after those that it imports.
    """
    described, names = DescriptorPool(), [STABLE]
    for file in (*files, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        described.AddSerializedFile(file.serialized_pb)
        names += [service.full_name for service in file.services_by_name.values()]
    described.AddSerializedFile(_stable_file().SerializeToString())
    servicer = reflection.aio.ReflectionServicer(names, described)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, calls)
    answers = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        methodcaller("SerializeToString"),
    )
    stable = grpc.method_handlers_generic_handler(STABLE, {"ServerReflectionInfo": answers})
    calls.add_generic_rpc_handlers((stable,))


def _stable_file() -> FileDescriptorProto:
    """Return the description of v1: that of v1alpha under another name."""
    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    return text_format.Parse(str(alpha).replace("v1alpha", "v1"), FileDescriptorProto())
