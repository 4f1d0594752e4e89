"""Servers as processes: Nyquist, the echo, the peers; started, asked once, paused, ended.

command -> process -> first right answer -> (paused, resumed, ...) -> ended with its children
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from benchmarks.connection import CallFailed, Connection
from benchmarks.model import MeasuredModel, Request, WrongAnswer
from benchmarks.process_usage import is_paused, with_children
from nyquist.server.runtime.cores import available_cores
from tests.conformance.environments import interpreter

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0
PAUSE_TIMEOUT_S = 1.0
HEAVY_MMACS = 50
"""Million multiply-adds from which a picture is worth more than one thread."""


class NotMeasured(Exception):
    """A server cannot be installed, does not start or answers wrongly; the reason in a line."""


@dataclass(frozen=True)
class Launch:
    """What a contender needs to know to write its command.

    Attributes:
        subject: the model.
        repository: folder that holds it, and nothing that is not to be served.
        request: that will be sent.
        port: to listen on for gRPC.
        scratch: folder for its files.
    """

    subject: MeasuredModel
    repository: Path
    request: Request
    port: int
    scratch: Path

    @property
    def threads(self) -> int:
        """Return intra-op threads for a server that runs one batch at a time."""
        return available_cores() if self.subject.mmacs >= HEAVY_MMACS else 1

    def free_ports(self, count: int) -> list[str]:
        """Return ports for what is not measured."""
        return [str(free_port()) for _ in range(count)]


@dataclass(frozen=True)
class Contender:
    """A kind of server.

    Attributes:
        name: as the tables have it.
        command: what starts it, given a Launch.
        environment: name of its virtual environment, if it is not ours.
    """

    name: str
    command: Callable[[Launch], Sequence[str | Path]]
    environment: str | None = None

    def installed(self) -> bool:
        """Say whether nothing has to be downloaded."""
        if self.environment is None:
            return True
        return (ROOT / ".venvs" / self.environment / "ready").is_file()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _nyquist(launch: Launch, options: Sequence[str] = ()) -> list[str | Path]:
    ports = ["--port", str(launch.port), "--metrics-port", "0"]
    repository = ["--repository", str(launch.repository)]
    return [sys.executable, "-m", "nyquist.server", *repository, *ports, "--drain-s", "0", *options]


def nyquist_with(*options: str, prefix: Sequence[str] = ()) -> Contender:
    """Return Nyquist with more options, or behind another command such as `taskset`."""
    return Contender("nyquist", lambda launch: [*prefix, *_nyquist(launch, options)])


def _echo(launch: Launch, options: Sequence[str] = ()) -> list[str | Path]:
    answer = launch.scratch / "answer"
    answer.write_bytes(launch.subject.answer(launch.request))
    return [sys.executable, "-m", "benchmarks.echo", str(launch.port), answer, *options]


def _mlserver(launch: Launch) -> list[str | Path]:
    (http_port, metrics_port), folder = launch.free_ports(2), launch.scratch / "mlserver"
    (folder / "metrics").mkdir(parents=True)
    settings = {
        "host": "127.0.0.1",
        "grpc_port": launch.port,
        "http_port": int(http_port),
        "metrics_port": int(metrics_port),
        "metrics_dir": str(folder / "metrics"),
        "parallel_workers": 0,
        "debug": False,
        "grpc_max_message_length": -1,
    }
    model = {
        "name": launch.subject.name,
        "implementation": "mlserver_runtime.OnnxRuntime",
        "parameters": {
            "uri": str(launch.subject.graph.resolve()),
            "extra": {"threads": launch.threads},
        },
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    # not its script, whose first line names the place where the environment was made
    call = "from mlserver.cli import main; main()"
    return [_python(MLSERVER), "-c", call, "start", folder]


def _kserve(launch: Launch) -> list[str | Path]:
    graph = str(launch.subject.graph.resolve())
    words = [launch.subject.name, graph, str(launch.threads), str(launch.port)]
    return [_python(KSERVE), PEERS / "kserve_server.py", *words, *launch.free_ports(1)]


def _pytriton(launch: Launch) -> list[str | Path]:
    graph, batch = str(launch.subject.graph.resolve()), launch.subject.max_batch_size
    words = [launch.subject.name, graph, str(launch.threads), str(launch.port)]
    script = PEERS / "pytriton_server.py"
    return [_python(PYTRITON), script, *words, *launch.free_ports(2), str(batch)]


def _python(contender: Contender) -> Path:
    if contender.environment is None:
        return Path(sys.executable)
    return interpreter(contender.environment)


NYQUIST = nyquist_with()
ECHO = Contender("echo", _echo)
ON_GRPCIO = ("--transport", "grpcio")
OTHERS = (
    Contender("nyquist-grpcio", lambda launch: _nyquist(launch, ON_GRPCIO)),
    Contender("echo-grpcio", lambda launch: _echo(launch, ON_GRPCIO)),
)
"""The same on the other transport; measured where they are asked for."""
MLSERVER = Contender("mlserver", _mlserver, "mlserver-1.7.1-onnx")
KSERVE = Contender("kserve", _kserve, "kserve-0.21.0-onnx")
PYTRITON = Contender("pytriton", _pytriton, "pytriton-0.7.0-onnx")
ALL = (NYQUIST, ECHO, MLSERVER, KSERVE, PYTRITON, *OTHERS)


class AttachedServer:
    """A server that runs already, started by somebody else: a container, say.

    Args:
        name: as the tables have it.
        port: of gRPC, on this machine.
        pid: of the process whose children are its own.
    """

    def __init__(self, name: str, port: int, pid: int) -> None:
        self.name, self.port, self.pid = name, port, pid

    def pause(self) -> None:
        """Stop its processes, so that they use nothing while another is measured.

        Returns once each has stopped, which is a moment after the signal.
        """
        self._signal(signal.SIGSTOP)
        until = monotonic() + PAUSE_TIMEOUT_S
        while not all(map(is_paused, with_children(self.pid))) and monotonic() < until:
            sleep(0.001)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run meanwhile, and pause it again."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def check(self, request: Request) -> None:
        """Send one request and compare the answer with onnxruntime's.

        Raises:
            CallFailed: it ended with another status than OK.
            WrongAnswer: the logits differ.
        """
        request.check(_call(self.port, request.body))

    def _signal(self, number: signal.Signals) -> None:
        for pid in with_children(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class RunningServer(AttachedServer):
    """A server that was started here and has given a right answer.

    Attributes:
        start_s: from the start of the process to that answer.
    """

    def __init__(self, contender: Contender, launch: Launch) -> None:
        command = contender.command(launch)
        self._log = launch.scratch / f"{contender.name}.log"
        environment = dict(os.environ, PYTHONPATH=f"{ROOT}:{PEERS}", ORT_DISABLE_TELEMETRY="1")
        began = monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                [str(word) for word in command],
                cwd=ROOT if contender.environment is None else launch.scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the harness, which ends its servers
            )
        super().__init__(contender.name, launch.port, self._process.pid)
        try:
            self._wait_for_answer(launch.request, began + START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        self.start_s = monotonic() - began

    def load_s(self) -> float:
        """Return the seconds in which Nyquist says that it loaded its models; of others 0."""
        found = re.findall(r"loaded \S+ version \d+ on \S+ in ([0-9.]+) s", self._log.read_text())
        return sum(map(float, found))

    def stop(self) -> None:
        """End it and all its children."""
        everyone = with_children(self.pid)
        self.resume()
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        for pid in everyone:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _wait_for_answer(self, request: Request, until: float) -> None:
        mistake: Exception | None = None
        while monotonic() < until:
            if self._process.poll() is not None:
                raise NotMeasured(f"ended with status {self._process.returncode}: {self._last()}")
            try:
                return self.check(request)
            except (OSError, CallFailed) as error:
                mistake = error
                sleep(0.02)
            except WrongAnswer as error:
                raise NotMeasured(str(error)) from error
        raise NotMeasured(f"no answer after {START_TIMEOUT_S:g} s: {mistake}")

    def _last(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        said = [line.strip() for line in lines if any(map(str.isalpha, line))]
        return said[-1][:200] if said else "without a word"


def _call(port: int, body: bytes) -> bytes:
    """Make one call and return its answer."""
    connection = Connection(port, body)
    try:
        connection.start()
        until = monotonic() + START_TIMEOUT_S
        while monotonic() < until:
            connection.flush()
            for _, answer in connection.finished():
                return answer
            sleep(0.001)
    finally:
        connection.close()
    raise CallFailed("no answer")


@contextmanager
def running(contender: Contender, launch: Launch) -> Iterator[RunningServer]:
    """Run a server, and end it.

    Raises:
        NotMeasured: it cannot be installed, does not start or answers wrongly.
    """
    try:
        server = RunningServer(contender, launch)
    except subprocess.CalledProcessError as error:
        raise NotMeasured(f"cannot be installed: {error}") from error
    try:
        yield server
    finally:
        server.stop()
