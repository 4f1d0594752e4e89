"""What metrics, logs and tracing cost: the server's CPU time a request, with and without them.

python -m benchmarks.observability_cpu [MODEL] [--requests N] [--concurrency N] [--rounds N]
                                       [--threads N]

One server for each case, all of them up; in each round every case gets its requests, in an order
that changes. Cases: metrics that count nothing (a stand-in here, not an option of the server); the
metrics as they are; these and a line of log for each call, to a pipe; these and traces of no call,
of 1 % and of every call, sent to a process that forgets them. The time is that of the server's
process, user and system, over requests of one picture. The figures are medians of the rounds, with
the least and the most, and what each case adds to the one that it is compared with, also as a share
of its own time. The table of targets (`python -m benchmarks show`) reads no metrics, and metrics
with traces of 1 %.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import grpc
import uvloop
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_stubs

from benchmarks.closed_loop import closed_loop, repository_of
from benchmarks.environment import describe
from benchmarks.model import MeasuredModel
from benchmarks.process_usage import cpu_seconds
from benchmarks.results import Fact, Results
from benchmarks.targets import OBSERVABILITY
from nyquist.server.__main__ import serve
from nyquist.server.command_line import flags_of, make_serve_parser
from nyquist.server.settings import read_settings
from nyquist.server.telemetry.current_call import Call
from nyquist.server.telemetry.logs import configure_logs
from nyquist.server.telemetry.metrics import Metrics, ModelMetrics, Waited
from tests.processes import RunningServer, start_server

ROOT = Path(__file__).parent.parent
FORGET = "from benchmarks.observability_cpu import forget_traces; forget_traces()"
UNMETERED = "from benchmarks.observability_cpu import serve_unmetered; serve_unmetered()"


class Nothing:
    """A metric, its child and its timer, all of which do nothing."""

    value = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a metric has
        return self._nothing

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass

    def _nothing(self, *_: object, **__: object) -> "Nothing":
        return self


class NoModelMetrics(ModelMetrics):
    """The series of a model that does not count."""

    def decoded(self, call: Call, began: float, ended: float) -> None:
        """Count nothing."""

    def ran(self, requests: Sequence[Waited], pictures: int, times: Sequence[float]) -> None:
        """Count nothing."""

    def answered(self, call: Call, began: float, computed: float) -> None:
        """Count nothing."""


class NoMetrics(Metrics):
    """Collectors that do nothing."""

    def __init__(self) -> None:
        super().__init__()
        for name, collector in vars(self).items():
            if hasattr(collector, "collect") and collector is not self.registry:
                setattr(self, name, Nothing())

    def model(self, name: str, version: str) -> ModelMetrics:
        """Return series that do nothing."""
        return NoModelMetrics(self, name, version)


def serve_unmetered() -> None:
    """Serve as nyquist serve does, with metrics that count nothing."""
    settings = read_settings(flags_of(make_serve_parser().parse_args()))
    configure_logs(settings.log_level, settings.log_format)
    uvloop.run(serve(settings, NoMetrics()))


class Collector(otlp_stubs.TraceServiceServicer):
    """Takes spans and forgets them."""

    def Export(  # noqa: N802 - gRPC's name
        self,
        request: otlp.ExportTraceServiceRequest,  # noqa: ARG002 - gRPC's signature
        context: Any,  # noqa: ARG002, ANN401 - gRPC's signature
    ) -> otlp.ExportTraceServiceResponse:
        """Say that they have come."""
        return otlp.ExportTraceServiceResponse()


def forget_traces() -> None:
    """Serve a collector until the process is ended; its port is the one line that it writes."""
    server = grpc.server(ThreadPoolExecutor(2))
    otlp_stubs.add_TraceServiceServicer_to_server(Collector(), server)  # type: ignore[no-untyped-call] # generated
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)  # noqa: T201 - read by the parent
    server.start()
    server.wait_for_termination()


@contextmanager
def collector() -> Iterator[str]:
    """Run a collector meanwhile, and give its endpoint."""
    command = [sys.executable, "-c", FORGET]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this file
        assert process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@dataclass
class Case:
    """A server and what it took.

    Attributes:
        name: as it is printed.
        beside: the case that it is compared with; empty for none.
        options: of the server.
        code: that runs in place of the server.
        microseconds: of CPU a request, of each round.
    """

    name: str
    beside: str
    options: Sequence[str] = ()
    code: str = ""
    microseconds: list[float] = field(default_factory=list)


def cases(endpoint: str) -> list[Case]:
    """Return every case, one after what it is compared with; traces go to an endpoint."""
    traced = ("--tracing-endpoint", endpoint, "--tracing-ratio")
    return [
        Case("no metrics", "", code=UNMETERED),
        Case("metrics", "no metrics"),
        Case("metrics, debug log", "metrics", ("--log-level", "debug")),
        Case("metrics, traces of none", "metrics", (*traced, "0")),
        Case("metrics, traces of 1 %", "metrics", (*traced, "0.01")),
        Case("metrics, traces of all", "metrics", (*traced, "1")),
    ]


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="fashion_blur")
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--requests", type=int, default=2000, help="of each case in each round")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        measured = measure(arguments, stack)
    print_table(measured)
    save(arguments.model, measured)


def measure(arguments: argparse.Namespace, stack: ExitStack) -> list[Case]:
    """Run every round."""
    folder = arguments.repository / arguments.model
    body = MeasuredModel(folder).tensor_request(1).body
    repository = stack.enter_context(repository_of(folder))
    options = ["--drain-s", "0", "--provider", "cpu", "--threads", str(arguments.threads)]
    running: list[tuple[Case, RunningServer]] = []
    for case in cases(stack.enter_context(collector())):
        server = start_server(repository, [*options, *case.options], case.code)
        stack.callback(server.stop)
        running.append((case, server))
    for number in range(arguments.rounds + 1):
        for case, server in Random(number).sample(running, len(running)):  # noqa: S311 - an order
            told = f"round {number} of {arguments.rounds}: {case.name}"
            print(told, file=sys.stderr)  # noqa: T201 - progress
            count = arguments.requests if number else arguments.requests // 10
            before = cpu_seconds(server.process.pid)
            answers = asyncio.run(closed_loop(server.target, body, count, arguments.concurrency))
            taken = cpu_seconds(server.process.pid) - before
            if answers.errors:
                raise SystemExit(f"{case.name}: {answers.errors} requests failed")
            if number:  # the first round warms everything up
                case.microseconds.append(1e6 * taken / count)
    return [case for case, _ in running]


def print_table(measured: Sequence[Case]) -> None:
    """Print each case, and what it adds."""
    middles = {case.name: median(case.microseconds) for case in measured}
    rows = [["case", "CPU a request", "beside", "adds", "share of it"], ["---"] * 5]
    for case in measured:
        middle, least, most = (f(case.microseconds) for f in (median, min, max))
        row = [case.name, f"{middle:.0f} us ({least:.0f}-{most:.0f})", case.beside or "-"]
        if case.beside:
            added = middle - middles[case.beside]
            row += [f"{added:+.1f} us", f"{added / middle:+.1%}"]
        rows.append(row + ["-"] * (5 - len(row)))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))  # noqa: T201 - its output


def save(model: str, measured: Sequence[Case]) -> None:
    """Write what the table of targets reads: without metrics, and with all that is usual."""
    results = Results(describe())
    for server, name in (("off", "no metrics"), ("on", "metrics, traces of 1 %")):
        (case,) = (case for case in measured if case.name == name)
        for number, microseconds in enumerate(case.microseconds, 1):
            of: dict[str, Fact] = {"model": model, "server": server, "round": number}
            results.add(of, {"cpu_us": microseconds})
    results.save(OBSERVABILITY)


if __name__ == "__main__":
    main()
