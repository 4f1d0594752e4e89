"""What a server says of its own contract: names of services, and the files that describe them."""

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from nyquist.server.wire.pb import inference_pb2, model_config_pb2


def reflection_servicer() -> reflection.aio.ReflectionServicer:
    """Describe inference, health and reflection itself.

    The stubs of these three lie in two pools: ours, and the process's default one.
    """
    files = (model_config_pb2, inference_pb2, health_pb2, reflection_pb2)
    described = DescriptorPool()
    for file in files:
        described.AddSerializedFile(file.DESCRIPTOR.serialized_pb)
    services = [file.DESCRIPTOR.services_by_name.values() for file in files]
    names = [service.full_name for of_file in services for service in of_file]
    return reflection.aio.ReflectionServicer(names, described)
