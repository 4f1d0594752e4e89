import asyncio
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from nyquist.server.settings import read_settings
from nyquist.server.telemetry import names
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb.inference_pb2_grpc import GRPCInferenceServiceStub as Stub
from nyquist.server.workers.channel import Channel
from nyquist.server.workers.fleet import Fleet
from nyquist.server.workers.merging import merged_metrics, merged_statistics, what_stays
from tests.processes import RunningServer, start_server
from tests.server.certificates import Authority
from tests.server.memory import request_for
from tests.server.receiver import Receiver, until

MODEL, OTHER = "fashion_strided", "fashion_blur"
CONNECTIONS = 8
PATIENCE_S = 60.0
IMPATIENT = """
from functools import partial
from nyquist.server import processes
from nyquist.server.__main__ import main
processes.Supervisor = partial(processes.Supervisor, silence_s=8.0)
raise SystemExit(main())
"""
"""A server that waits less long for a worker that says nothing."""


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    alone = tmp_path_factory.mktemp("alone")
    (alone / MODEL).symlink_to((repository / MODEL).resolve())
    options = ("--transport", "h2corn", "--workers", "2", "--drain-s", "0")
    running = start_server(alone, options, code=IMPATIENT)
    yield running
    running.stop()


@contextmanager
def stubs(server: RunningServer) -> Iterator[list[Stub]]:
    """Open several connections, which the workers share among them as it comes."""
    with ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = (
            stack.enter_context(grpc.insecure_channel(server.target, options=options))
            for _ in range(CONNECTIONS)
        )
        yield [Stub(channel) for channel in channels]


def workers(server: RunningServer) -> list[int]:
    """Return the processes of the workers."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    found = [int(pid) for pid in children.read_text().split()]
    return [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def scraped(server: RunningServer, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    found = re.search(rf"^{name}(?:{{.*}})? (.*)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def serves(stub: Stub) -> bool:
    return answers(stub, pb.ModelMetadataRequest(name=MODEL))


def answers(stub: Stub, asked: pb.ModelMetadataRequest) -> bool:
    """Say whether the worker at the other end has a model itself."""
    try:
        stub.ModelMetadata(asked)
    except grpc.RpcError:
        return False
    return True


def wait_until_ready(server: RunningServer) -> None:
    """Ask until every worker is ready; each new connection may come to any of them."""
    end = time.monotonic() + PATIENCE_S
    while scraped(server, names.WORKERS) < 2 or not all_ready(server):
        assert time.monotonic() < end


def all_ready(server: RunningServer) -> bool:
    with stubs(server) as found:
        return all(stub.ServerReady(pb.ServerReadyRequest()).ready for stub in found)


def test_workers_need_the_transport_that_has_one_socket_for_them() -> None:
    with pytest.raises(StartError, match="--workers 2 needs --transport h2corn"):
        read_settings({"workers": "2", "transport": "grpcio"})


def test_statistics_of_a_version_are_added_stage_by_stage_and_batch_by_batch() -> None:
    def answer(count: int, size: int) -> pb.ModelStatisticsResponse:
        one = pb.ModelStatistics(name="a", version="1", inference_count=count, last_inference=count)
        one.inference_stats.queue.count = one.inference_stats.queue.ns = count
        one.batch_stats.add(batch_size=size).compute_infer.count = count
        return pb.ModelStatisticsResponse(model_stats=[one])

    (total,) = merged_statistics([answer(2, 4), answer(3, 4), answer(4, 1)]).model_stats
    assert (total.inference_count, total.last_inference) == (9, 4)
    assert (total.inference_stats.queue.count, total.inference_stats.queue.ns) == (9, 9)
    batches = [(batch.batch_size, batch.compute_infer.count) for batch in total.batch_stats]
    assert batches == [(1, 4), (4, 5)]


def test_metrics_are_added_but_for_what_is_one_thing_in_all_workers() -> None:
    def scrape(value: float) -> list[CounterMetricFamily | GaugeMetricFamily]:
        return [
            CounterMetricFamily("calls", "x", value=value),
            GaugeMetricFamily(names.MODEL_READY, "x", value=value % 2),
            GaugeMetricFamily(names.LOAD_DURATION, "x", value=value),
        ]

    values = {
        family.name: family.samples[0].value for family in merged_metrics([scrape(3), scrape(4)])
    }
    assert values == {"calls": 7, names.MODEL_READY: 0, names.LOAD_DURATION: 4}
    assert [family.name for family in what_stays(scrape(3))] == ["calls"]


def test_a_worker_answers_its_supervisor_whatever_goes_wrong_and_without_details() -> None:
    async def broken(*_: object) -> pb.RepositoryIndexResponse:
        raise OSError(24, "Too many open files", "/srv/models")

    async def test() -> tuple[object, ...]:
        here, there = map(Channel, socket.socketpair())
        await here.open()
        await there.open()
        fleet = Fleet(there, 1)
        here.send("member")
        await fleet.join({"Index": (broken, pb.RepositoryIndexRequest)}, CollectorRegistry())
        assert await here.receive() == ("loaded",)
        here.send("do", 7, "Index", b"")
        answer: tuple[object, ...] = await here.receive()
        fleet.close()
        here.close()
        return answer

    kind, number, error = asyncio.run(asyncio.wait_for(test(), 20))
    assert (kind, number, str(error)) == ("done", 7, "internal error; see the log")


def test_requests_are_counted_together_whoever_answers_them(server: RunningServer) -> None:
    body = request_for(Path("model_repository") / MODEL)
    with stubs(server) as found:
        for stub in found * 3:
            stub.ModelInfer(body)
        (counted,) = found[0].ModelStatistics(pb.ModelStatisticsRequest(name=MODEL)).model_stats
    assert counted.inference_count == 3 * CONNECTIONS
    assert scraped(server, names.TRITON_SUCCESS) == 3 * CONNECTIONS


def test_a_load_or_unload_is_heard_by_all_and_by_who_comes_later(server: RunningServer) -> None:
    with stubs(server) as found:
        assert all(map(serves, found))
        found[0].RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=MODEL))
        assert not any(map(serves, found))
    before = workers(server)
    os.kill(before[0], signal.SIGKILL)
    wait_until_ready(server)
    assert scraped(server, names.WORKER_DEATHS) == 1
    assert len(set(workers(server)) - set(before)) == 1
    with stubs(server) as found:
        assert not any(map(serves, found))
        found[0].RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=MODEL))
        assert all(map(serves, found))
        assert scraped(server, names.TRITON_SUCCESS) == 0, "what was unloaded is not counted on"
        with pytest.raises(grpc.RpcError, match="failed to load 'absent'"):
            found[0].RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="absent"))


def test_a_worker_that_hangs_is_ended_and_replaced(server: RunningServer) -> None:
    deaths, before = scraped(server, names.WORKER_DEATHS), workers(server)
    hung = os.pidfd_open(before[1])
    os.kill(before[1], signal.SIGSTOP)
    assert select.select([hung], [], [], PATIENCE_S)[0]
    os.close(hung)
    wait_until_ready(server)
    assert scraped(server, names.WORKER_DEATHS) == deaths + 1
    assert len(set(workers(server)) - set(before)) == 1
    assert any(
        "has ended: it did not answer for 8 s; another starts" in line for line in server.log
    )


def test_each_worker_renews_certificates_polls_and_mirrors(
    repository: Path, tmp_path: Path
) -> None:
    authority, folder = Authority(tmp_path / "tls"), tmp_path / "models"
    folder.mkdir()
    (folder / MODEL).symlink_to((repository / MODEL).resolve())
    own = authority.issue("server", "localhost")
    options = {"tls-certificate": own.certificate, "tls-key": own.key, "poll-s": 0.2, "workers": 2}
    with Receiver() as receiver, ExitStack() as stack:
        options |= {"shadow-target": receiver.target, "shadow-share": 1, "drain-s": 0}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        running = start_server(folder, words)
        stack.callback(running.stop)
        target = f"localhost:{running.port}"

        def channels() -> list[grpc.Channel]:
            return [stack.enter_context(authority.channel(target)) for _ in range(CONNECTIONS)]

        def shown() -> set[str]:
            address = ("127.0.0.1", running.port)
            return {ssl.get_server_certificate(address) for _ in range(CONNECTIONS)}

        body = request_for(repository / MODEL)
        for channel in channels():
            Stub(channel).ModelInfer(body)
        receiver.wait_until(lambda it: len(it.received) == CONNECTIONS and it.streams == 2)

        before = shown()
        authority.issue("server", "localhost")
        until(lambda: len(shown() | before) == 2 and not shown() & before)

        (folder / OTHER).symlink_to((repository / OTHER).resolve())
        found = [Stub(channel) for channel in channels()]
        asked = pb.ModelMetadataRequest(name=OTHER)
        until(lambda: all(answers(stub, asked) for stub in found))
        (folder / OTHER).unlink()
        until(lambda: not any(answers(stub, asked) for stub in found))
        assert running.stop() == 0


def test_ctrl_c_while_workers_start_ends_them_without_a_word(repository: Path) -> None:
    command = [sys.executable, "-m", "nyquist.server", "--repository", str(repository)]
    options = ["--workers", "2", "--port", "0", "--metrics-port", "0"]
    starting = subprocess.Popen(
        command + options, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = Path(f"/proc/{starting.pid}/task/{starting.pid}/children")
    while not any(
        b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in children.read_text().split()
    ):
        assert starting.poll() is None
    os.killpg(starting.pid, signal.SIGINT)
    _, log = starting.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in log
    assert starting.returncode == 0, log


def test_no_worker_outlives_a_supervisor_that_is_killed(server: RunningServer) -> None:
    orphans = [os.pidfd_open(pid) for pid in workers(server)]
    server.process.kill()
    for orphan in orphans:
        signalled, _, _ = select.select([orphan], [], [], PATIENCE_S)
        assert signalled
        os.close(orphan)
