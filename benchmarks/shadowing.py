"""What mirroring to a companion costs the callers of the server: latencies in turns, as ratios.

python -m benchmarks.shadowing [MODEL] [--requests N] [--concurrency N] [--rounds N] [--threads N]
                               [--companion COMMAND]

One server for each case, all of them up; in each round every case gets its requests, in an order
that changes, so that what disturbs the machine disturbs all. Cases: nothing mirrored; 1 % and
100 % to a companion that takes them; 100 % to one that takes each only after a pause, that is
stopped (SIGSTOP), that is killed (SIGKILL). The figures are over all rounds, and as ratios to the
first case.

--companion is the command of a real companion for all cases but the slow one. In it {port} is the
port to listen on, {server} the server's host:port and {repository} its repository:
"python -m nyquist.companion serve --port {port} --http-port 0 --target {server} --repository
{repository}". Without it a receiver stands in that counts and forgets.
"""

import argparse
import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import urlopen

import grpc
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.closed_loop import Answers, closed_loop, repository_of
from benchmarks.model import MeasuredModel
from nyquist.server.telemetry import names
from nyquist.server.wire.pb import shadow_pb2 as pb
from nyquist.server.wire.pb import shadow_pb2_grpc as stubs
from tests.processes import RunningServer, start_server

ROOT = Path(__file__).parent.parent
CONNECT_TIMEOUT_S = 120.0
PAUSE_S = 0.2


class Receiver(stubs.ShadowServicer):
    """Counts what comes, and forgets it."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    def Mirror(  # noqa: N802 - gRPC's name
        self,
        request_iterator: Iterator[pb.MirroredInference],
        context: Any,  # noqa: ARG002, ANN401 - gRPC's signature
    ) -> pb.MirrorReceipt:
        """Take a stream, with a pause after each message."""
        received = 0
        for _ in request_iterator:
            received += 1
            time.sleep(self._pause_s)
        return pb.MirrorReceipt(received=received)


def receive(port: int, pause_s: float) -> None:
    """Serve a receiver until the process is ended."""
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    stubs.add_ShadowServicer_to_server(Receiver(pause_s), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


@dataclass
class Case:
    """A server, what it mirrors, and what becomes of its companion.

    Attributes:
        name: as it is printed.
        share: of the requests that are mirrored.
        pause_s: of a receiver after each message; 0 lets the real companion stand there.
        fate: a signal that the companion gets before the load.
    """

    name: str
    share: float
    pause_s: float = 0.0
    fate: signal.Signals | None = None
    answers: Answers = field(default_factory=Answers)


def cases() -> list[Case]:
    """Return every case, what the others are compared with first."""
    return [
        Case("off", 0.0),
        Case("1 %", 0.01),
        Case("100 %", 1.0),
        Case("100 %, slow", 1.0, PAUSE_S),
        Case("100 %, stopped", 1.0, fate=signal.SIGSTOP),
        Case("100 %, killed", 1.0, fate=signal.SIGKILL),
    ]


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="fashion_blur")
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--requests", type=int, default=500, help="of each case in each round")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--companion", default="", help="command of the real one")
    parser.add_argument("--receive", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--pause-s", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        receive(arguments.receive, arguments.pause_s)
        return
    with ExitStack() as stack:
        measured = measure(arguments, stack)
        print_table(measured)


def measure(
    arguments: argparse.Namespace, stack: ExitStack
) -> list[tuple[Case, tuple[float, float]]]:
    """Run every round, and return the cases with what their servers counted."""
    folder = arguments.repository / arguments.model
    body = MeasuredModel(folder).tensor_request(1).body
    repository = stack.enter_context(repository_of(folder))
    running = [(case, start(case, repository, arguments, stack)) for case in cases()]
    for number in range(arguments.rounds + 1):
        for case, server in Random(number).sample(running, len(running)):  # noqa: S311 - an order
            told = f"round {number} of {arguments.rounds}: {case.name}"
            print(told, file=sys.stderr)  # noqa: T201 - progress
            count = arguments.requests if number else arguments.requests // 10
            answers = asyncio.run(closed_loop(server.target, body, count, arguments.concurrency))
            if number:  # the first round warms everything up
                case.answers.add(answers)
    return [(case, counted(server)) for case, server in running]


def start(
    case: Case, repository: Path, arguments: argparse.Namespace, stack: ExitStack
) -> RunningServer:
    """Start the server of a case and its companion, and let that have its fate."""
    port = free_port()
    options = ["--drain-s", "0", "--provider", "cpu", "--threads", str(arguments.threads)]
    if case.share:
        options += ["--shadow-target", f"127.0.0.1:{port}", "--shadow-share", str(case.share)]
    server = start_server(repository, options)
    stack.callback(server.stop)
    if not case.share:
        return server
    if arguments.companion and not case.pause_s:
        places = {"port": port, "server": server.target, "repository": repository}
        command = shlex.split(arguments.companion.format(**places))
    else:
        own = [sys.executable, "-m", "benchmarks.shadowing"]
        command = [*own, "--receive", str(port), "--pause-s", str(case.pause_s)]
    companion = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603 - the user's own
    stack.callback(companion.wait)
    stack.callback(companion.kill)
    wait_for_port(port, companion)
    if case.fate is not None:
        os.kill(companion.pid, case.fate)
    return server


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_for_port(port: int, companion: "subprocess.Popen[bytes]") -> None:
    """Wait until a companion listens."""
    give_up = time.monotonic() + CONNECT_TIMEOUT_S
    while time.monotonic() < give_up:
        if companion.poll() is not None:
            raise SystemExit(f"the companion ended with {companion.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"the companion does not listen on {port}")


def counted(server: RunningServer) -> tuple[float, float]:
    """Return the inferences that a server mirrored and dropped."""
    with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    values = {sample.name: sample.value for family in families for sample in family.samples}
    return values[names.SHADOW_MIRRORED], values[names.SHADOW_DROPPED]


def print_table(measured: Sequence[tuple[Case, tuple[float, float]]]) -> None:
    """Print each case with its ratios to the first."""
    base = measured[0][0].answers
    titles = "companion", "answered", "errors", "p50", "p99", "p50 / off", "p99 / off"
    rows = [[*titles, "mirrored", "dropped"], ["---"] * 9]
    for case, counts in measured:
        middle, high = (case.answers.percentile_ms(percent) for percent in (50, 99))
        ratios = (middle / base.percentile_ms(50), high / base.percentile_ms(99))
        rows.append(
            [
                case.name,
                str(len(case.answers.seconds)),
                str(case.answers.errors),
                *(f"{value:.2f} ms" for value in (middle, high)),
                *(f"{ratio:.3f}" for ratio in ratios),
                *(f"{count:.0f}" for count in counts),
            ]
        )
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
