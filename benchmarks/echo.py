"""A gRPC server that runs no model: the limit of a transport.

python -m benchmarks.echo PORT ANSWER [--transport h2corn | grpcio]

Every ModelInfer gets the bytes of the file ANSWER; no message is parsed or built. The listeners are
set as the server's own.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import grpc
import uvloop

from nyquist.server.front.asgi_call import OK, START
from nyquist.server.front.grpc_wire import framed
from nyquist.server.front.http_listener import HttpListener, open_socket
from nyquist.server.front.inference_service import SERVICE
from nyquist.server.front.message_reader import Event, Receive, Send
from nyquist.server.front.settings import CallSettings, ListenerSecurity

MAX_MESSAGE_BYTES = 2**31 - 1


async def serve_h2corn(port: int, answer: bytes) -> None:
    """Answer until the process is ended."""
    body: Event = {"type": "http.response.body", "body": framed(answer)}

    async def answer_each(scope: Event, receive: Receive, send: Send) -> None:
        del scope
        while (await receive()).get("more_body"):
            pass
        await send(START)
        await send(body)
        await send(OK)

    application: Any = answer_each  # without what only a listener that closes asks for
    listening = open_socket("127.0.0.1", port)
    listener = HttpListener(application, CallSettings(), ListenerSecurity(), listening, 0.0)
    await listener.start()
    await asyncio.Event().wait()


async def serve_grpcio(port: int, answer: bytes) -> None:
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


SERVE: dict[str, Any] = {"h2corn": serve_h2corn, "grpcio": serve_grpcio}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--transport", choices=SERVE, default="h2corn")
    arguments = parser.parse_args()
    uvloop.run(SERVE[arguments.transport](arguments.port, arguments.answer.read_bytes()))
