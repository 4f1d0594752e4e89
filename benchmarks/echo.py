"""A gRPC server that runs no model: the limit of the transport.

python -m benchmarks.echo PORT ANSWER

Every ModelInfer gets the bytes of the file ANSWER, through grpc.aio and handlers that neither parse
nor build a message.
"""

import argparse
import asyncio
from pathlib import Path

import grpc

from nyquist.server.front.inference_service import SERVICE

MAX_MESSAGE_BYTES = 2**31 - 1


async def serve(port: int, answer: bytes) -> None:
    """Answer until the process is ended."""

    async def model_infer(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        del body, context
        return answer

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(model_infer)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("answer", type=Path)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.answer.read_bytes()))
