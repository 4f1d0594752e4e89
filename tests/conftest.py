"""What every test may ask for: the built models, and a server that serves them."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch
from hypothesis import settings

from nyquist.client.client import Client
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import ROOT, RunningServer, start_server

torch.set_num_threads(1)  # two would spin for each other beside the servers that tests start

# An example that takes longer than 200 ms says that the machine is busy, and nothing of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# What is imported stays: not to look through it again takes a tenth off each export.
gc.freeze()
gc.set_threshold(50_000, 20, 100)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole", action="store_true", help="fail where a test was skipped, or none was run"
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hold what --whole promises, in the process that the workers of pytest-xdist report to."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not session.config.getoption("whole"):
        return
    skipped, passed = (len(reporter.stats.get(outcome, ())) for outcome in ("skipped", "passed"))
    if skipped or not passed:
        reporter.write_line(f"--whole: {skipped} tests were skipped, {passed} passed", red=True)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _no_trace_of_the_exporter() -> Iterator[None]:
    """Keep torch's own trace out of pytest's log capture, which formats a record an operator."""
    trace = logging.getLogger("torch.__trace")
    propagates, trace.propagate = trace.propagate, False
    yield
    trace.propagate = propagates


@pytest.fixture(scope="session")
def repository() -> Path:
    folder = ROOT / "model_repository"
    if not (folder / "fashion_blur" / "1" / "manifest.json").is_file():
        pytest.fail("the models are not built; run the tests with make test", pytrace=False)
    return folder


@pytest.fixture(scope="session", params=["grpcio", "h2corn"])
def transport(request: pytest.FixtureRequest) -> str:
    """Have every server that a test starts carry gRPC by the one and by the other."""
    return request.param


OF_ONE_TRANSPORT = {
    "interop": "h2corn",
    "server/test_call_metrics.py": "h2corn",
    "server/test_client.py": "h2corn",
    "server/test_control_calls.py": "h2corn",
    "server/test_exemplars.py": "h2corn",
    "server/test_metrics.py": "h2corn",
    "server/test_mixture.py": "h2corn",
    "server/test_mutations.py": "h2corn",
    "server/test_tracing.py": "h2corn",
    "server": "",
    "conformance": "",
}
"""What is asked through one transport, whose subject does not change with it; through both: none.

All that does not stand here asks its server through gRPC's own.
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has nothing to do with the transport that it would be repeated for."""
    repeated = [item for item in items if _needless(item)]
    config.hook.pytest_deselected(items=repeated)
    left = dict.fromkeys(repeated)
    items[:] = [item for item in items if item not in left]


def _needless(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    transport = callspec.params.get("transport") if callspec is not None else None
    if transport is None:
        return False
    path = item.path.relative_to(ROOT / "tests")
    places = (path.as_posix(), path.parts[0])
    one = next((OF_ONE_TRANSPORT[place] for place in places if place in OF_ONE_TRANSPORT), "grpcio")
    return one not in ("", transport)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the servers of a test that asks for a transport have it, and those of others none."""
    os.environ.pop("NYQUIST_TRANSPORT", None)
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "transport" in callspec.params:
        os.environ["NYQUIST_TRANSPORT"] = callspec.params["transport"]


@pytest.fixture(scope="session")
def one_model(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of fashion_strided alone: its server starts for a third of the work."""
    folder = tmp_path_factory.mktemp("one_model")
    (folder / "fashion_strided").symlink_to(repository / "fashion_strided")
    return folder


@pytest.fixture(scope="session")
def server(repository: Path, transport: str) -> Iterator[RunningServer]:
    running = start_server(repository, ("--drain-s", "0", "--transport", transport))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as opened:
        yield opened


@pytest.fixture(scope="session")
def stub(channel: grpc.Channel) -> stubs.GRPCInferenceServiceStub:
    return stubs.GRPCInferenceServiceStub(channel)


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as connected:
        yield connected
