"""How long others wait while one request of some 60 MiB is answered.

python -m tests.server.stalls --transport h2corn

A process of its own asks for ServerLive all the time; told is the worst of its calls that overlap a
request, the best and the middle of three: a busy machine adds to each of them.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import IO, Any

import grpc

from tests.processes import ROOT, RunningServer, start_server

MIB = 1 << 20
SIZE = 60 * MIB
INFER = "/inference.GRPCInferenceService/ModelInfer"
PATH = "/v2/models/fashion_strided"
TRIALS = 3
ASKING = """
import grpc, sys, time
call = grpc.insecure_channel(sys.argv[1]).unary_unary("/inference.GRPCInferenceService/ServerLive")
while True:
    began = time.time()
    call(b"", timeout=60)
    print(began, time.time(), flush=True)
    time.sleep(0.003)
"""


def field(number: int, body: bytes) -> bytes:
    """Return a field of a message on the wire."""
    length, size = b"", len(body)
    while size > 0x7F:
        length, size = length + bytes((size & 0x7F | 0x80,)), size >> 7
    return bytes((number << 3 | 2,)) + length + bytes((size,)) + body


def messages() -> Iterator[tuple[str, bytes]]:
    """Yield requests over gRPC."""
    model, lite0 = field(1, b"fashion_strided"), field(1, b"efficientnet_lite0")
    image = field(1, b"image") + field(2, b"FP32")
    one, raw = field(3, b"\1\1\x30\x30"), field(7, bytes(9216))
    file = field(1, b"image") + field(2, b"BYTES") + field(3, b"\1")
    yield "a shape of 60 million axes", model + field(5, image + field(3, b"\1" * SIZE)) + raw
    yield "an input's name of 60 MiB", model + field(5, field(1, b"x" * SIZE)) + raw
    yield "30 million empty inputs", model + b"\x2a\0" * (SIZE // 2) + raw
    yield "30 million empty outputs", model + field(5, image + one) + b"\x32\0" * (SIZE // 2) + raw
    yield "a model's name of 60 MiB", field(1, b"y" * SIZE)
    yield "4 million parameters", model + field(4, field(1, b"k" * 9) + field(2, b"")) * (4 * MIB)
    typed = field(5, field(6, bytes(SIZE)))
    yield "15 million typed FP32, too many", model + field(5, image + one + typed)
    typed = field(5, b"\x42\0" * (SIZE // 2))
    yield "30 million empty bytes_contents", lite0 + field(5, file + typed)
    yield "raw contents of too many strings", lite0 + field(5, file) + field(7, bytes(SIZE))
    yield "raw contents of a wrong size", model + field(5, image + one) + field(7, bytes(SIZE))
    picture = (SIZE).to_bytes(4, "little") + bytes(SIZE)
    yield "a picture of 60 MiB that is none", lite0 + field(5, file) + field(7, picture)
    yield "60 MiB that are no message", b"\xff" * SIZE


def bodies() -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Yield requests of REST: what they are, path, body and headers."""
    start = b'{"inputs":[{"name":"image","shape":[1,1,48,48],"datatype":"FP32",'
    infer = f"{PATH}/infer"
    yield "JSON of 60 MiB", infer, start + b'"data":[%b]}]}' % (b"0," * (SIZE // 2) + b"0"), {}
    for what, count, one in (("numbers", 2_000_000, b"0,"), ("lists", 1_300_000, b"[],")):
        values = one * count + one[:-1]
        yield f"JSON of {count} {what}", infer, start + b'"data":[%b]}]}' % values, {}
    members = b",".join(b'"%07d":0' % number for number in range(330_000))
    yield "JSON of 330000 parameters", infer, b'{"parameters":{%b}}' % members, {}
    texts = b'{"inputs":[{"name":"image","shape":[1300001],"datatype":"BYTES","data":[%b]}]}'
    yield "JSON of 1300001 texts", infer, texts % (b'"",' * 1_300_000 + b'""'), {}
    told = start + b'"parameters":{"binary_data_size":%d}}]}' % SIZE
    length = {"Inference-Header-Content-Length": str(len(told))}
    yield "60 MiB of binary data, wrong size", infer, told + bytes(SIZE), length
    yield "classify: 60 MiB, no picture", "/v2/models/efficientnet_lite0/classify", bytes(SIZE), {}


def measured(send: Callable[[], str], waits: list[tuple[float, float]]) -> str:
    """Return the worst waits of others, the time that a request took, and its answer."""
    spans, answer = [], ""
    for _ in range(TRIALS):
        began = time.time()
        answer = send()
        spans.append((began, time.time()))
        time.sleep(0.3)  # until the waits are told
    worst = sorted(
        max((ended - began for began, ended in waits if ended > start and began < stop), default=0)
        for start, stop in spans
    )
    took = min(stop - start for start, stop in spans)
    return f"{worst[0]:.3f} | {worst[TRIALS // 2]:.3f} | {took:.2f} | {answer}"


def over_grpc(server: RunningServer, body: bytes) -> str:
    """Send a message, and name the status."""
    with grpc.insecure_channel(server.target, [("grpc.max_send_message_length", -1)]) as channel:
        try:
            call: Any = channel.unary_unary(INFER)
            call(body, timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def over_http(server: RunningServer, path: str, body: bytes, headers: dict[str, str]) -> str:
    """Send a body, and return the status."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", path, body, headers)
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _read(stream: IO[str], waits: list[tuple[float, float]]) -> None:
    for line in stream:
        began, ended = map(float, line.split())
        waits.append((began, ended))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", choices=("h2corn", "grpcio"), default="h2corn")
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    options = parser.parse_args()
    words = ("--load", "fashion_strided", "--load", "efficientnet_lite0", "--drain-s", "0")
    server = start_server(options.repository, (*words, "--transport", options.transport))
    asking = subprocess.Popen(
        [sys.executable, "-c", ASKING, server.target], stdout=subprocess.PIPE, text=True
    )
    assert asking.stdout is not None
    waits: list[tuple[float, float]] = []
    Thread(target=_read, args=(asking.stdout, waits), daemon=True).start()
    try:
        tell("| request | least s | middle s | took s | answer |\n| --- | --- | --- | --- | --- |")
        for what, message in messages():
            told = measured(lambda message=message: over_grpc(server, message), waits)  # type: ignore[misc] # bound now
            tell(f"| {what} | {told} |")
        for what, *sent in bodies() if options.transport == "h2corn" else ():
            told = measured(lambda sent=sent: over_http(server, *sent), waits)  # type: ignore[misc] # bound now
            tell(f"| REST: {what} | {told} |")
    finally:
        asking.kill()
        asking.wait()
        server.stop()


if __name__ == "__main__":
    main()
