"""Every metric has one name in one place, and whatever names one names one that is there."""

import re
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from nyquist.companion.watch import metrics as companion
from nyquist.companion.watch import names as companion_names
from nyquist.companion.watch.history import History
from nyquist.companion.watch.limits import Limits
from nyquist.companion.watch.record import Record
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.server.runtime.gpu import GpuCollector
from nyquist.server.telemetry import metrics as server
from nyquist.server.telemetry import names as server_names
from nyquist.server.telemetry.source_metrics import SourceMetrics
from tests.deploy.promql import ROOT, dashboards, panel_queries, rules, runbook_queries, selectors
from tests.nvml import FakeNvml

PARTS = re.compile("_(bucket|sum|count)$")
OURS = re.compile(
    r"(?<![\w:$])(?:nyquist|nv_inference|nv_gpu|grpc_server)_[a-z_]*[a-z]\b(?![.(*{])"
)
OF_PROMETHEUS = {"ALERTS", "up", "process_start_time_seconds"}
TEXTS = (
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("deploy/prometheus/**/*.yml"),
    ROOT / "README.md",
)


def constants() -> dict[str, set[str]]:
    """Return the names of the server's metrics, and of the companion's."""
    return {
        "server": {value for name, value in vars(server_names).items() if name.isupper()},
        "companion": {value for name, value in vars(companion_names).items() if name.isupper()},
    }


def exposed(registry: CollectorRegistry) -> set[str]:
    """Return the names of a live registry, as they are written into PromQL."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
    }


OF_A_SUPERVISOR = {server_names.WORKERS, server_names.WORKER_DEATHS}
"""Shown with `--workers` alone; the tests of workers ask for them."""


@pytest.fixture(scope="module")
def live() -> dict[str, set[str]]:
    of_server, of_companion = server.Metrics(), companion.Metrics(probe_period_s=60)
    of_server.registry.register(GpuCollector(FakeNvml()))
    SourceMetrics(of_server.registry)
    history = History()
    record = Record("", probes=1, disagreements=1, disagreement_bytes=1, kept=history)
    of_companion.registry.register(companion.StandingCollector(record))
    rollouts = Rollouts(Limits(), history)
    of_companion.registry.register(companion.RolloutCollector(rollouts))
    return {
        "server": exposed(of_server.registry) | OF_A_SUPERVISOR,
        "companion": exposed(of_companion.registry),
    }


@pytest.mark.parametrize("process", ["server", "companion"])
def test_every_name_is_that_of_a_metric_and_every_metric_of_ours_has_its_name(
    process: str, live: dict[str, set[str]]
) -> None:
    named = constants()
    assert named[process] <= live[process]
    ours = {name for name in live[process] if OURS.fullmatch(name)}
    assert ours <= named["server"] | named[process], "the companion counts its calls by the same"


def test_no_name_of_ours_means_two_things(live: dict[str, set[str]]) -> None:
    both = live["server"] & live["companion"]
    assert {name for name in both if name.startswith("nyquist_")} == set()


def mentioned() -> Iterator[tuple[str, str]]:
    """Return each name in the dashboards, rules, runbooks and pages, with where it stands."""
    queries = [query for board in dashboards().values() for query in panel_queries(board)]
    queries += runbook_queries()
    for query in queries:
        for selector in selectors(query.parsed):
            yield query.place, str(selector.name)
    for path in TEXTS:
        for name in OURS.findall(path.read_text(encoding="utf-8")):
            yield str(path.relative_to(ROOT)), name


def test_every_name_in_dashboards_rules_and_pages_is_one_of_them() -> None:
    known = OF_PROMETHEUS | {name for names in constants().values() for name in names}
    known |= {str(rule["record"]) for rule in rules() if "record" in rule}
    found = list(mentioned())
    assert len(found) > 250
    assert [
        (place, name)
        for place, name in found
        if name not in known and PARTS.sub("", name) not in known
    ] == []


@pytest.mark.parametrize("folder", ["server", "companion", "export", "benchmarks", "deploy"])
def test_no_code_writes_a_name_out(folder: str) -> None:
    known = {name for names in constants().values() for name in names}
    assert [
        path
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "names.py"
        and known & set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    ] == []
