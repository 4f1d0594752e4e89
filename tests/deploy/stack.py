"""The whole stack on live data: python -m tests.deploy.stack [--seconds N].

copies of models -> server, companion -> Prometheus with the rules of deploy/ <- queries
                 <- callers of every kind
"""

import argparse
import json
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import yaml

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import add_version, copy_model, damage, set_config
from tests.companion.processes import FAST, RunningCompanion, start_companion
from tests.processes import ROOT, RunningServer, start_server, start_until
from tests.requests import fashion_request

PROMETHEUS = ROOT / "deploy" / "prometheus"
VERSIONED, RELOADED = "fashion_blur", "fashion_strided"
LEISURELY = ("--probe-period-s", "5", "--core-share", "1", "--nice", "0", "--drain-s", "0")
PATIENCE_S = 120.0  # far more than it takes, because the machine may have other work
PAUSE_S = 0.1


@dataclass
class RunningPrometheus:
    """A Prometheus process that takes queries.

    Attributes:
        process: to signal and to wait for.
        address: of its HTTP interface.
        reader: reads on, or it would block on a full pipe.
    """

    process: subprocess.Popen[str]
    address: str
    reader: Thread

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API.

        Raises:
            ValueError: the query is wrong; the message is Prometheus's.
        """
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - http, as above
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {json.load(error)['error']}") from error

    def samples(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series that a query returns now, without NaN."""
        found = self.ask("query", query=query)["result"]
        numbers = [(one["metric"], float(one["value"][1])) for one in found]
        return [(labels, value) for labels, value in numbers if value == value]  # NaN is not

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {labels["alertname"] for labels, _ in self.samples('ALERTS{alertstate="firing"}')}

    def series(self) -> dict[str, set[str]]:
        """Return the labels of every series by its name."""
        labels: dict[str, set[str]] = {}
        for one in self.ask("series", **{"match[]": '{__name__=~".+"}'}):
            labels.setdefault(one.pop("__name__"), set()).update(one)
        return labels

    def stop(self) -> int:
        """End it, and return its exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=60)
        self.reader.join()
        return status


def configure(
    folder: Path, targets: Mapping[str, int], interval: str, edit: Callable[[str], str] = str
) -> Path:
    """Write Prometheus's configuration and rules as in deploy/, at a pace of its own.

    Args:
        folder: that it is written to.
        targets: port on this machine, by job.
        interval: between scrapes, and between evaluations of every group of rules.
        edit: changes the text of each file of rules.
    """
    content = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    for name in ("scrape_interval", "scrape_timeout", "evaluation_interval"):
        content["global"][name] = interval
    for job in content["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]
    (folder / "rules").mkdir(parents=True)
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = re.sub(r"^    interval: .*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
        (folder / "rules" / path.name).write_text(edit(text), encoding="utf-8")
    configuration = folder / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(content), encoding="utf-8")
    return configuration


def start_prometheus(configuration: Path) -> RunningPrometheus:
    """Start Prometheus on a free port and wait until it takes queries."""
    process, found, _, reader = start_until(
        [
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={configuration.parent / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
            "--web.cors.origin=.*",
        ],
        r'"Listening on" address=\S+:(\d+).*ready to receive web requests',
    )
    return RunningPrometheus(process, f"http://127.0.0.1:{found[1]}", reader)


@dataclass
class RunningStack:
    """A server, its companion, and a Prometheus that scrapes both.

    Attributes:
        server: that is called.
        companion: that watches it.
        prometheus: that watches both.
        models: repository of the server and the companion.
    """

    server: RunningServer
    companion: RunningCompanion
    prometheus: RunningPrometheus
    models: Path

    def wait_for(self, query: str, patience_s: float = PATIENCE_S) -> float:
        """Wait until a query returns something, and return the seconds that it took."""
        start = time.monotonic()
        while not self.prometheus.samples(query):
            waited_s = time.monotonic() - start
            assert waited_s < patience_s, f"nothing after {waited_s:.0f} s: {query}"
            time.sleep(0.2)
        return time.monotonic() - start


def free_port() -> int:
    """Return a port for the companion: server and companion call each other, so one must know."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def running_stack(
    models: Path,
    folder: Path,
    *,
    interval: str = "2s",
    options: Sequence[str] = (),
    companion_options: Sequence[str] = FAST,
    edit: Callable[[str], str] = str,
) -> Iterator[RunningStack]:
    """Serve a repository, watch it and scrape both until the block ends.

    Args:
        models: the repository, of the server and of the companion.
        folder: empty, for Prometheus.
        interval: between scrapes, and between evaluations of the rules.
        options: of the server.
        companion_options: of the companion.
        edit: changes the text of each file of rules.
    """
    with ExitStack() as stack:
        port = free_port()
        shadow = ("--shadow-target", f"127.0.0.1:{port}", "--shadow-share", "1")
        server = start_server(models, ("--drain-s", "0", *shadow, *options))
        stack.callback(server.stop)
        watching = (*companion_options, "--port", str(port))
        companion = start_companion(server.target, models, watching)
        stack.callback(companion.stop)
        targets = {"nyquist": server.metrics_port, "nyquist-companion": companion.http_port}
        prometheus = start_prometheus(configure(folder, targets, interval, edit))
        stack.callback(prometheus.stop)
        yield RunningStack(server, companion, prometheus, models)


def copy_models(repository: Path, folder: Path) -> Path:
    """Copy the models that the callers ask for; one of them has two versions."""
    for name in (VERSIONED, RELOADED):
        copy_model(repository, folder, name)
    add_version(folder / VERSIONED, 2)
    set_config(folder / VERSIONED, "\nversion_policy { all {} }\n")
    return folder


def call_in_every_way(target: str, models: Path, stopped: Event) -> None:
    """Call a server until stopped: well, badly, in streams, and while models change."""
    with grpc.insecure_channel(target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        ways: tuple[Callable[[], object], ...] = (
            lambda: _infer(stub),
            lambda: _stream(stub),
            lambda: _err(stub),
            lambda: _cancel(stub),
            lambda: _describe(stub),
        )
        number = 0
        while not stopped.is_set():
            for way in ways:
                way()
            if number % 20 == 0:
                _reload(stub, models)
            number += 1
            stopped.wait(PAUSE_S)


def _infer(stub: stubs.GRPCInferenceServiceStub) -> None:
    calls = []
    for model in (VERSIONED, RELOADED):
        for version in ("1", "2") if model == VERSIONED else ("",):
            for batch in (1, 2, 4):
                request = fashion_request(batch, model)
                request.model_version = version
                calls.append(stub.ModelInfer.future(request))
    for call in calls:
        call.exception(timeout=60)


def _stream(stub: stubs.GRPCInferenceServiceStub) -> None:
    for _ in stub.ModelStreamInfer(iter([fashion_request(model=VERSIONED)] * 3)):
        pass


def _err(stub: stubs.GRPCInferenceServiceStub) -> None:
    """Provoke an error of each kind."""
    wrong = fashion_request(model=VERSIONED)
    wrong.inputs[0].datatype = "FP64"
    late = fashion_request(8, VERSIONED)
    for request, deadline_s in (
        (fashion_request(model="unknown"), 5.0),
        (wrong, 5.0),
        (late, 0.0005),
    ):
        stub.ModelInfer.future(request, timeout=deadline_s).exception()


def _cancel(stub: stubs.GRPCInferenceServiceStub) -> None:
    stub.ModelInfer.future(fashion_request(8, VERSIONED)).cancel()


def _describe(stub: stubs.GRPCInferenceServiceStub) -> None:
    stub.ModelReady(pb.ModelReadyRequest(name=VERSIONED))
    stub.ModelMetadata(pb.ModelMetadataRequest(name=VERSIONED))


def _reload(stub: stubs.GRPCInferenceServiceStub, models: Path) -> None:
    """Fail to load a model anew, which is served on; then succeed."""
    graph = models / RELOADED / "1" / "model.onnx"
    request = pb.RepositoryModelLoadRequest(model_name=RELOADED)
    sound = damage(graph)
    stub.RepositoryModelLoad.future(request).exception(timeout=60)
    graph.write_bytes(sound)
    stub.RepositoryModelLoad(request)


@contextmanager
def called(stack: RunningStack) -> Iterator[None]:
    """Call the server in every way until the block ends."""
    stopped = Event()
    arguments = (stack.server.target, stack.models, stopped)
    caller = Thread(target=call_in_every_way, args=arguments)
    caller.start()
    try:
        yield
    finally:
        stopped.set()
        caller.join(timeout=120)
        assert not caller.is_alive()


def main() -> None:
    """Run the stack under load for a while, for eyes and for tests/deploy/draw."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="(%(default)s)")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        models = copy_models(ROOT / "model_repository", Path(scratch) / "models")
        prometheus = Path(scratch) / "prometheus"
        with (
            suppress(KeyboardInterrupt),
            running_stack(models, prometheus, companion_options=LEISURELY) as stack,
            called(stack),
        ):
            print(f"Prometheus: {stack.prometheus.address}", flush=True)  # noqa: T201 - the command line
            time.sleep(seconds)


if __name__ == "__main__":
    main()
