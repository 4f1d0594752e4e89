"""Every query of deploy/ and of the runbooks, on a real stack under load."""

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from nyquist.server.telemetry import names
from tests.deploy.alarms import firing, swap
from tests.deploy.promql import (
    TARGET_LABELS,
    Query,
    dashboards,
    grouping_labels,
    matched,
    panel_queries,
    rules,
    runbook_queries,
    selectors,
)
from tests.deploy.stack import VERSIONED, RunningStack, called, copy_models, running_stack
from tests.impostors import perturb_weight

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed"
)

NOT_HERE = dict.fromkeys(
    (names.GPU_UTILIZATION, names.GPU_MEMORY_USED, names.GPU_MEMORY_TOTAL),
    "there is no GPU here",
) | dict.fromkeys(
    (names.SOURCE_FAILURES, names.SOURCE_LAST_SUCCESS), "no model comes from elsewhere"
)
"""Series that cannot be here, and why not."""
IN_HEALTH = {"ALERTS": "nothing need fire"}
"""Series that need not be here, and why not."""
SEEN = (
    'nyquist_shift_consistency_ratio{source="probe", protocol="half_pixel"}',
    'nyquist_shift_consistency_ratio{source="shadow"}',
    "nyquist_model_load_failures_total > 0",
    "model:nyquist_budget_burn:rate30d",
    "rate(nyquist_shadow_checked_total[20s]) > 0",
    "nyquist_rollout_latency_seconds",
)
"""What takes longest to come."""
INTERVAL = "1m"


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    models = copy_models(repository, tmp_path_factory.mktemp("models"))
    folder = tmp_path_factory.mktemp("prometheus")
    with running_stack(models, folder) as running, called(running):
        for query in SEEN:
            running.wait_for(query)
        yield running


@pytest.fixture(scope="module")
def series(stack: RunningStack) -> dict[str, set[str]]:
    return stack.prometheus.series()


def queries() -> list[Query]:
    """Return every query of every panel, rule and runbook; of an alert what it compares.

    An alert's own expression returns nothing in health.
    """
    found = [query for board in dashboards().values() for query in panel_queries(board)]
    found += runbook_queries()
    for rule in rules():
        whole = Query(rule.get("record") or f"alert {rule['alert']}", rule["expr"])
        found.append(whole)
    return found


def operands(query: Query) -> list[Query]:
    """Return what a query selects, each as a query of its own."""
    return [Query(query.place, one.prettify()) for one in selectors(query.parsed)]


def unavailable(query: Query) -> str:
    """Return why a query has no data here; nothing if it must have."""
    if 'model=~"resnet' in query.expression:
        return "no ResNet is served here"
    reasons = NOT_HERE | IN_HEALTH
    return next((reasons[one.name] for one in selectors(query.parsed) if one.name in reasons), "")


def test_every_query_returns_data(stack: RunningStack) -> None:
    asked = [
        part
        for query in queries()
        for part in (operands(query) if query.place.startswith("alert ") else [query])
    ]
    assert len(asked) > 150
    empty = [
        query
        for query in asked
        if not unavailable(query) and not stack.prometheus.samples(query.sent(INTERVAL))
    ]
    assert empty == []


def test_every_query_names_series_and_labels_that_exist(
    stack: RunningStack, series: dict[str, set[str]]
) -> None:
    assert stack.prometheus.process.poll() is None
    for query in queries():
        kept: set[str] = set()
        for selector in selectors(query.parsed):
            if selector.name not in NOT_HERE | IN_HEALTH:
                assert selector.name in series, query
                assert set(matched(selector)) <= series[selector.name], query
                kept |= series[selector.name]
        if not unavailable(query):
            assert grouping_labels(query.parsed) <= kept | TARGET_LABELS, query


def test_what_is_said_to_be_missing_is_missing(series: dict[str, set[str]]) -> None:
    assert not NOT_HERE.keys() & series.keys()


def test_every_rule_is_evaluated_without_an_error(stack: RunningStack) -> None:
    groups = stack.prometheus.ask("rules")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(list(rules()))
    assert [rule for rule in found if rule["health"] != "ok"] == []


def test_promtool_finds_nothing_wrong_with_the_metrics_but_tritons_names(
    stack: RunningStack,
) -> None:
    for port in (stack.server.metrics_port, stack.companion.http_port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            exposed = answer.read().decode()
        lines = [line for line in exposed.splitlines(keepends=True) if "nv_" not in line]
        done = subprocess.run(
            ["promtool", "check", "metrics"],  # noqa: S607 - wherever it is installed
            input="".join(lines),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_sound_model_under_load_is_called_healthy(stack: RunningStack) -> None:
    verdicts = stack.prometheus.samples("nyquist_verdict == 1")
    assert {labels["verdict"] for labels, _ in verdicts} == {"healthy"}
    assert stack.prometheus.firing() & {"NyquistParityBroken", "NyquistConsistencyDropped"} == set()


def test_a_perturbed_weight_fires_the_alert_and_is_called_failing(stack: RunningStack) -> None:
    swap(stack, VERSIONED, perturb_weight)
    stack.wait_for(firing("NyquistParityBroken", VERSIONED))
    stack.wait_for(f'nyquist_verdict{{model="{VERSIONED}", version="1", verdict="failing"}} == 1')
