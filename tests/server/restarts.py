"""Restart two replicas by SIGTERM in turn, under load from one client that balances between them.

The next one goes when the client has come back to the last: in Kubernetes, minReadySeconds.

python -m tests.server.restarts --repository DIR --restarts 10 --client health
"""

import argparse
import json
import socket
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Lock
from typing import Any
from urllib.request import urlopen

import grpc

from nyquist.server.wire.pb import inference_pb2 as pb
from tests.processes import RunningServer, start_server

MODEL = "fashion_strided"
BALANCED: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
CLIENTS: dict[str, dict[str, Any]] = {
    "health": BALANCED | {"healthCheckConfig": {"serviceName": ""}},
    "retry": BALANCED
    | {
        "methodConfig": [
            {
                "name": [{"service": "inference.GRPCInferenceService"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    },
}
CLIENTS["both"] = CLIENTS["health"] | CLIENTS["retry"]
"""What a client has to be told: to ask each replica for its health, to try again, both."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has now; a replica comes back on its own."""
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listener.getsockname()[1] for listener in listeners]


def answered(server: RunningServer) -> bool:
    """Say whether a server has answered a request since it started."""
    with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=30) as response:
        text = response.read().decode()
    return any(
        line.startswith("nyquist_request_duration_seconds_count{") and not line.endswith(" 0.0")
        for line in text.splitlines()
    )


def balanced(ports: list[int], config: dict[str, Any]) -> grpc.Channel:
    """Return one channel to all of them, with a service config that says how to use it."""
    return grpc.insecure_channel(
        "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports),
        options=(
            ("grpc.service_config", json.dumps(config)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
            # gRPC would send the list of addresses, which is no authority: h2corn refuses it.
            ("grpc.default_authority", "replicas"),
        ),
    )


class Callers:
    """Closed-loop callers that share one channel, which they close.

    Attributes:
        outcomes: calls by what they got: OK, WRONG for other logits than the first, or the error.
        done: ends all of them once set.
    """

    def __init__(self, channel: grpc.Channel, callers: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.done = Event()
        self._lock, self._logits = Lock(), b""
        self._channel = channel
        self._infer: Any = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._pool = ThreadPoolExecutor(callers)
        self._running = [self._pool.submit(self._call) for _ in range(callers)]

    def answer_more(self, count: int) -> None:
        """Return once so many more calls have been answered."""
        enough = self.outcomes["OK"] + count
        while self.outcomes["OK"] < enough:
            if any(running.done() for running in self._running):
                raise AssertionError(f"a caller has ended: {self.outcomes}")
            self.done.wait(0.02)

    def so_far(self) -> Counter[str]:
        """Return what the calls got until now."""
        with self._lock:
            return self.outcomes.copy()

    def stop(self) -> Counter[str]:
        """Let each caller end its call, and return what all of them got."""
        self.done.set()
        for running in self._running:
            running.result(timeout=60)
        self._pool.shutdown()
        self._channel.close()
        return self.outcomes

    def _call(self) -> None:
        body = black_picture()
        while not self.done.is_set():
            try:
                answer = self._infer(body, timeout=30, wait_for_ready=False)
            except grpc.RpcError as error:
                outcome = f"{error.code().name}: {error.details()}"
            else:
                outcome = self._judge(pb.ModelInferResponse.FromString(answer))
            with self._lock:
                self.outcomes[outcome] += 1

    def _judge(self, answer: pb.ModelInferResponse) -> str:
        (logits,) = answer.raw_output_contents
        self._logits = self._logits or logits
        return "OK" if logits == self._logits else "WRONG"


def black_picture() -> bytes:
    """Return the bytes of a good request."""
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(4 * 48 * 48)])
    request.inputs.add(name="image", datatype="FP32", shape=(1, 1, 48, 48))
    return request.SerializeToString()


def restart_in_turn(
    repository: Path,
    restarts: int,
    client: str,
    callers: int,
    *,
    transport: str | None = None,
) -> Counter[str]:
    """Restart one replica after the other, each under load, and return what the callers got.

    Args:
        repository: that both serve.
        restarts: of either in turn.
        client: one of CLIENTS.
        callers: that call one request after the other.
        transport: of the replicas; None for the default.
    """
    ports = free_ports(2)

    def start(port: int) -> RunningServer:
        carried = ("--transport", transport) if transport else ()
        return start_server(repository, ("--port", str(port), "--drain-s", "1", *carried))

    replicas = [start(port) for port in ports]
    both = Callers(balanced(ports, CLIENTS[client]), callers)
    return _restarted(start, replicas, ports, both, restarts)


def _restarted(
    start: Callable[[int], RunningServer],
    replicas: list[RunningServer],
    ports: list[int],
    callers_of_both: Callers,
    restarts: int,
) -> Counter[str]:
    try:
        callers_of_both.answer_more(100)
        for restart in range(restarts):
            at = restart % 2
            if replicas[at].stop() != 0:
                raise AssertionError(f"a replica ended badly:\n{''.join(replicas[at].log)}")
            callers_of_both.answer_more(100)
            replicas[at] = start(ports[at])
            while not answered(replicas[at]):  # the client is back, so the other one may go
                callers_of_both.answer_more(100)
        return callers_of_both.stop()
    finally:
        callers_of_both.done.set()
        for replica in replicas:
            replica.stop()


def main() -> int:
    """Run it from the command line; exit 1 if a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--client", choices=CLIENTS, default="health")
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--transport", choices=("grpcio", "h2corn"))
    options = parser.parse_args()
    outcomes = restart_in_turn(
        options.repository,
        options.restarts,
        options.client,
        options.callers,
        transport=options.transport,
    )
    sys.stdout.write(f"{options.restarts} restarts, client {options.client}: {dict(outcomes)}\n")
    return 0 if set(outcomes) == {"OK"} else 1


if __name__ == "__main__":
    sys.exit(main())
