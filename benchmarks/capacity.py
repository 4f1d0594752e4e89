"""The simulation of nyquist plan beside real replicas: calibrated, pressed, simulated, compared.

python -m benchmarks.capacity run [--rounds N] [--seconds S] [--calm N] [--resume] [FILE]
python -m benchmarks.capacity show [FILE]     the table
python -m benchmarks.capacity plot [FILE]     docs/capacity/validation.svg

replicas -> one of them calibrated -> 1, 2 and 3 of them pressed at several rates
-> the same arrivals simulated -> p50, p99 of both
"""

import argparse
import json
import re
import selectors
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copytree
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter, sleep

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.capacity_rows import Row, read, summed_up
from benchmarks.connection import CallFailed, Connection
from benchmarks.model import MeasuredModel
from benchmarks.servers import Contender, Launch, RunningServer, free_port, running
from nyquist.client.capacity.arrivals import Trace
from nyquist.client.capacity.balancer import BALANCERS
from nyquist.client.capacity.calibrate import Replica, Runs, between, calibrate, replace_run_times
from nyquist.client.capacity.fleet import Scenario, simulate
from nyquist.client.capacity.replica_profile import Profile
from nyquist.server.wire.connection import Connection as To

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "benchmark_results" / "capacity.json"
PLOT = ROOT / "docs" / "capacity" / "validation.svg"
REPLICAS = (1, 2, 3)
CONNECTIONS = 4
SEEDS = 5
STALL_S = 60.0
CALM_AT_LATEST_S = 90.0
ONE_SESSION = """
instance_group { count: 1 kind: KIND_CPU }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""
PACE_MS = ("20", "2.5")


@dataclass(frozen=True)
class Kind:
    """A kind of replica.

    Attributes:
        name: in the tables.
        model: that it serves.
        rates: requests a second and replica.
        module: that starts it, with its first arguments.
    """

    name: str
    model: str
    rates: tuple[float, ...]
    module: tuple[str, ...] = ("nyquist.server",)

    @property
    def contender(self) -> Contender:
        """Return how it is started."""

        def command(launch: Launch) -> list[str | Path]:
            ports = ["--port", str(launch.port), "--metrics-port", "0", "--drain-s", "0"]
            repository = ["--repository", str(launch.repository)]
            return [sys.executable, "-m", *self.module, *repository, *ports]

        return Contender(self.name, command)


KINDS = (
    Kind(
        "paced",
        "fashion_strided",
        (40, 80, 120, 160, 200),
        ("benchmarks.paced_replica", *PACE_MS),
    ),
    Kind("cpu", "efficientnet_lite0", (4, 8, 12)),
)


PERCENT = (50, 90, 99)


def measure(options: argparse.Namespace, console: Console) -> None:
    """Measure every kind in each round, and write what there is after each window."""
    path: Path = options.file
    rows = read(path) if options.resume and path.is_file() else []
    done = max((row.round for row in rows), default=0)
    path.parent.mkdir(exist_ok=True)
    with TemporaryDirectory() as scratch:
        for number in range(done + 1, done + options.rounds + 1):
            for kind in KINDS:
                with started(kind, max(REPLICAS), Path(scratch)) as servers:
                    wait_for_calm(options.calm)
                    profile, body = calibrated(kind, servers[0], console)
                    for window in _windows(kind):
                        wait_for_calm(options.calm)
                        row = _pressed(
                            kind, profile, servers, body, window, number, options.seconds
                        )
                        rows.append(row)
                        console.print(_in_words(row))
                        path.write_text(json.dumps([asdict(one) for one in rows], indent=1))


def wait_for_calm(most: int) -> None:
    """Wait until so few threads have run for a second, as far as looks every tenth tell."""
    until, calm = monotonic() + CALM_AT_LATEST_S, 0
    while most and calm < 10 and monotonic() < until:
        (running,) = re.findall(r"^procs_running (\d+)", Path("/proc/stat").read_text(), re.M)
        calm = calm + 1 if int(running) <= most else 0
        sleep(0.1)


def _windows(kind: Kind) -> Iterator[tuple[int, str, float]]:
    """Yield replicas, balancing and the rate of each."""
    for replicas in REPLICAS:
        for rate in kind.rates:
            yield replicas, "round-robin", rate
    for rate in kind.rates[1:]:
        yield max(REPLICAS), "least-requests", rate


@contextmanager
def started(kind: Kind, count: int, scratch: Path) -> Iterator[list[RunningServer]]:
    """Run some replicas of a kind meanwhile."""
    source = ROOT / "model_repository" / kind.model
    subject = MeasuredModel(source)
    repository = scratch / f"repository-{kind.name}"
    copy = repository / kind.model
    if not copy.is_dir():
        copytree(source, copy)
        with (copy / "config.pbtxt").open("a", encoding="utf-8") as config:
            config.write(ONE_SESSION)
    with ExitStack() as stack:
        servers = []
        for number in range(count):
            folder = scratch / f"{kind.name}-{number}"
            folder.mkdir(exist_ok=True)
            request = subject.tensor_request(1)
            port = free_port()
            launch = Launch(subject, repository, request, port, folder)
            servers.append(stack.enter_context(running(kind.contender, launch)))
        yield servers


def calibrated(kind: Kind, server: RunningServer, console: Console) -> tuple[Profile, bytes]:
    """Calibrate a replica; return its profile, and a request."""
    with closing(_replica(kind, server)) as replica:
        profile = calibrate(replica, seconds=1.0, device=kind.name, start_s=server.start_s)
    times = {size: round(1e3 * value, 2) for size, value in profile.run_s.items()}
    console.print(
        f"{kind.name}: runs {times} ms, loop {1e3 * profile.loop_s:.3g} ms, "
        f"wire {1e3 * profile.wire_s:.3g} ms"
    )
    subject = MeasuredModel(ROOT / "model_repository" / kind.model)
    return profile, subject.tensor_request(1).body


def _replica(kind: Kind, server: RunningServer) -> Replica:
    return Replica(To(f"127.0.0.1:{server.port}"), kind.model)


def _pressed(
    kind: Kind,
    profile: Profile,
    servers: Sequence[RunningServer],
    body: bytes,
    window: tuple[int, str, float],
    number: int,
    seconds: float,
) -> Row:
    """Press some replicas, and simulate the same arrivals twice."""
    replicas, balancing, each = window
    with ExitStack() as stack:
        counts = [stack.enter_context(closing(_replica(kind, one))) for one in servers[:replicas]]
        before = [one.counted() for one in counts]
        rate = each * replicas
        planned = np.cumsum(
            np.random.default_rng([number, replicas, int(each)]).exponential(
                1 / rate, int(rate * seconds)
            )
        )
        ports = [one.port for one in servers[:replicas]]
        sent, took = ask(ports, body, planned, balancing)
        runs = _added(
            between(then, one.counted()) for then, one in zip(before, counts, strict=True)
        )
    arrivals = Trace(sent - sent[0])
    foreseen = Scenario(
        profile, replicas, rate, float(sent[-1] - sent[0]) + 1e-6, arrivals=arrivals,
        balancing=balancing,
    )  # fmt: skip
    there = replace_run_times(profile, runs)
    explained = replace(foreseen, profile=there)
    percentiles, rates = [], []
    for scenario in (foreseen, explained):
        # stretched to the rate that it has, so that it is played as it was
        scenario = replace(scenario, rate=arrivals.rate)
        trials = [simulate(scenario, seed) for seed in range(SEEDS)]
        percentiles.append(
            tuple(median(1e3 * trial.latency_s(percent) for trial in trials) for percent in PERCENT)
        )
        ends = [float((trial.sent + trial.seconds).max()) for trial in trials]
        rates.append(len(sent) / median(ends))
    return Row(
        kind.name,
        replicas,
        balancing,
        rate,
        number,
        len(sent),
        len(sent) / float((sent + took).max() - sent[0]),
        tuple(1e3 * float(value) for value in np.percentile(took, PERCENT)),
        percentiles[0],
        percentiles[1],
        rates[0],
        there.run_s[1] / profile.run_s[1],
    )


def _added(each: Iterator[Mapping[int, Runs]]) -> dict[int, Runs]:
    """Return the runs of several replicas together."""
    total: dict[int, Runs] = {}
    for counted in each:
        for size, runs in counted.items():
            so_far = total.get(size, Runs())
            total[size] = Runs(so_far.count + runs.count, so_far.seconds + runs.seconds)
    return total


class Asking:
    """Requests on their way to some replicas, over some connections each. Close it.

    Args:
        ports: of the replicas.
        body: of every request.
        balancing: one of the simulation's own.
        count: of requests.

    Attributes:
        sent: when each was, on perf_counter. (count,)
        took: seconds until its answer. (count,)
    """

    def __init__(self, ports: Sequence[int], body: bytes, balancing: str, count: int) -> None:
        self._balancer = BALANCERS[balancing](len(ports), np.random.default_rng(0))
        self._turns = [deque(Connection(port, body) for _ in range(CONNECTIONS)) for port in ports]
        self._places = {one: at for at, each in enumerate(self._turns) for one in each}
        self._selector = selectors.SelectSelector()  # waits for microseconds
        for connection in self._places:
            self._selector.register(connection, selectors.EVENT_READ, connection)
        self._began: dict[tuple[Connection, int], int] = {}
        self.sent, self.took = np.zeros(count), np.zeros(count)

    def __len__(self) -> int:
        return len(self._began)

    def close(self) -> None:
        """End the connections."""
        self._selector.close()
        for connection in self._places:
            connection.close()

    def send(self, request: int) -> None:
        """Send a request to the replica that the balancer picks."""
        turn = self._turns[self._balancer.pick()]
        turn.rotate()
        self.sent[request] = perf_counter()
        self._began[turn[0], turn[0].start()] = request
        while not turn[0].flush():
            self.hear(0)

    def hear(self, timeout_s: float) -> None:
        """Take what answers come, and wait for the first of them if need be."""
        heard = self._selector.select(timeout_s)
        for key, _ in heard:
            connection: Connection = key.data
            for stream, _ in connection.finished():
                request = self._began.pop((connection, stream))
                self.took[request] = perf_counter() - self.sent[request]
                self._balancer.release(self._places[connection])
            connection.flush()
        if not heard and timeout_s == STALL_S:
            raise CallFailed(f"{len(self)} calls got no answer for {STALL_S:g} s")


def ask(
    ports: Sequence[int], body: bytes, planned: NDArray[np.float64], balancing: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Send a request at each time, whatever the answers do.

    Returns:
        When each was sent, and how long its answer took, in seconds. (N,) each.

    Raises:
        CallFailed: a call ended with another status than OK, or nothing came for STALL_S.
    """
    with closing(Asking(ports, body, balancing, len(planned))) as asking:
        start = perf_counter()
        for request, at in enumerate(planned.tolist()):
            asking.hear(0)
            while (left := start + at - perf_counter()) > 0:
                asking.hear(left)
            asking.send(request)
        while asking:
            asking.hear(STALL_S)
        return asking.sent, asking.took


def show(rows: Sequence[Row], console: Console) -> None:
    """Print medians over the rounds, and least and most of what was measured."""
    titles = (
        "replicas",
        "balancing",
        "requests/s",
        "answered/s",
        "p50 ms",
        "foreseen",
        "explained",
    )
    table = Table(*titles, "p99 ms", "foreseen", "explained", "runs", box=SIMPLE_HEAD)
    for first, each in summed_up(rows):
        cells = [f"{first.kind} {first.replicas}", first.balancing, f"{first.rate:g}"]
        cells.append(f"{median(one.answered for one in each):.0f}")
        for at in (0, 2):
            measured = sorted(one.measured_ms[at] for one in each)
            cells.append(f"{median(measured):.1f} ({measured[0]:.1f}-{measured[-1]:.1f})")
            cells += [
                f"{100 * (median(values) - 1):+.0f} %"
                for values in (
                    [one.foreseen_ms[at] / one.measured_ms[at] for one in each],
                    [one.explained_ms[at] / one.measured_ms[at] for one in each],
                )
            ]
        cells.append(f"{median(one.run for one in each):.2f}")
        table.add_row(*cells)
    console.print(table)


def _in_words(row: Row) -> str:
    def ms(values: Sequence[float]) -> str:
        return "/".join(f"{value:.1f}" for value in values)

    return (
        f"{row.kind} {row.replicas} {row.balancing} {row.rate:g}/s: {row.requests} at "
        f"{row.answered:.0f}/s, p50/p90/p99 {ms(row.measured_ms)} ms, foreseen "
        f"{ms(row.foreseen_ms)}, explained {ms(row.explained_ms)}, runs x {row.run:.2f}"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=("run", "show", "plot"))
    parser.add_argument("file", type=Path, nargs="?", default=OUTPUT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each window")
    parser.add_argument(
        "--calm",
        type=int,
        default=0,
        metavar="N",
        help="begin a window once at most N threads of this machine run; 0 does not wait",
    )
    parser.add_argument("--resume", action="store_true", help="add rounds to those of FILE")
    options = parser.parse_args(words)
    console = Console(highlight=False, soft_wrap=True)
    if options.command == "run":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the replicas are ended too
        measure(options, console)
    if options.command == "plot":
        from benchmarks.capacity_plots import draw_validation

        draw_validation(read(options.file), PLOT)
    else:
        show(read(options.file), Console(width=150, highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
