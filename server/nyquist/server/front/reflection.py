"""What a process says of its own contracts: names of services, and the files that describe them."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from nyquist.server.front.calls import Calls


def describe(calls: Calls, *files: FileDescriptor) -> None:
    """Serve the description of the services of these files, of health and of reflection itself.

    Their stubs lie in two pools, ours and the process's default one.

    Args:
        calls: that serve it.
        *files: each after those that it imports.
    """
    described, names = DescriptorPool(), []
    for file in (*files, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        described.AddSerializedFile(file.serialized_pb)
        names += [service.full_name for service in file.services_by_name.values()]
    servicer = reflection.aio.ReflectionServicer(names, described)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, calls)
