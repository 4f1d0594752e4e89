"""A client that has no stubs: it asks the server for its contract, as grpcurl does."""

from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.conformance.environments import Row

SERVICE = "inference.GRPCInferenceService"
ONE_PICTURE = {
    "model_name": "fashion_strided",
    "inputs": [
        {
            "name": "image",
            "datatype": "FP32",
            "shape": [1, 1, 48, 48],
            "contents": {"fp32_contents": [0.0] * 48 * 48},
        }
    ],
}


def call(channel: grpc.Channel, pool: DescriptorPool, method: str, body: dict[str, Any]) -> Any:
    """Call a method with a message written as JSON; return the answer as such."""
    described = pool.FindServiceByName(SERVICE).methods_by_name[method]
    request = ParseDict(body, GetMessageClass(described.input_type)())
    answer = GetMessageClass(described.output_type)
    send: Any = channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return MessageToDict(send(request), preserving_proto_field_name=True)


def run_reflected(target: str) -> list[Row]:
    """List the service and call it."""
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        listed = SERVICE in database.get_services()
        live = call(channel, pool, "ServerLive", {})
        config = call(channel, pool, "ModelConfig", {"name": "fashion_strided"})
        answer = call(channel, pool, "ModelInfer", ONE_PICTURE)
    right = {
        "list of services": listed,
        "ServerLive": live == {"live": True},
        "ModelConfig": config["config"]["input"][0]["format"] == "FORMAT_NCHW",
        "ModelInfer, typed": len(answer["outputs"][0]["contents"]["fp32_contents"]) == 10,
    }
    return [Row(name, "ok" if good else "wrong answer") for name, good in right.items()]
