import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from grafana_foundation_sdk.models import units

from server.inference_service import SERVICE
from server.metrics import Metrics

Dashboard = dict[str, Any]
TARGET_LABELS = {"job", "instance"}  # Prometheus adds them to what it scrapes


def panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Return the panels that draw something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: Dashboard) -> dict[str, dict[str, Any]]:
    """Return the variables by name."""
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def parsed(expression: str) -> promql_parser.Expr:
    """Parse PromQL as Grafana would send it."""
    sent = expression.replace("$__rate_interval", "20s").replace("$model", ".+")
    return promql_parser.parse(sent)


def nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    """Return every node of an expression."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(expression, found.append)
    return found


def selectors(expression: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """Return what an expression selects, at an instant or over a range."""
    return [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]


def grouping_labels(expression: promql_parser.Expr) -> set[str]:
    """Return the labels that an expression groups or joins by."""
    labels: set[str] = set()
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and node.modifier and node.modifier.matching:
            labels.update(node.modifier.matching.labels)
    return labels


@pytest.fixture(scope="session")
def queries(dashboard: Dashboard) -> list[str]:
    """Return the PromQL of every panel, and that of the model variable."""
    asked = re.fullmatch(r"label_values\((.+), model\)", variables(dashboard)["model"]["query"])
    assert asked
    drawn = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    return [*drawn, asked[1]]


@pytest.fixture(scope="session")
def exposed() -> dict[str, set[str]]:
    """Return the series that the server exposes, and the labels of each."""
    metrics = Metrics()
    metrics.model("m", "1").describe("0" * 64, 18, "CPUExecutionProvider", fell_back=False)
    call = ("unary", SERVICE, "ModelInfer")
    metrics.handled.labels(*call, "OK")
    labels: dict[str, set[str]] = defaultdict(set)
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels[sample.name].update(sample.labels)
    return labels


def test_the_dashboard_is_what_its_script_writes(root: Path, tmp_path: Path) -> None:
    written = tmp_path / "latency.json"
    script = root / "deploy" / "grafana" / "latency.py"
    subprocess.run([sys.executable, script, written], check=True, timeout=60)
    committed = root / "deploy" / "grafana" / "dashboards" / "latency.json"
    assert written.read_bytes() == committed.read_bytes()


def test_every_panel_asks_the_chosen_data_source(dashboard: Dashboard) -> None:
    asked = [
        holder["datasource"] for panel in panels(dashboard) for holder in (panel, *panel["targets"])
    ]
    asked.append(variables(dashboard)["model"]["datasource"])
    assert len(asked) > 24
    assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in asked)


def test_the_data_source_chosen_at_first_is_the_provisioned_one(
    dashboard: Dashboard, source: dict[str, Any]
) -> None:
    chosen = variables(dashboard)["datasource"]
    assert chosen["query"] == source["type"] == "prometheus"
    assert chosen["current"] == {"text": source["name"], "value": source["uid"]}


def test_every_query_parses_and_names_series_and_labels_that_the_server_exposes(
    queries: list[str], exposed: dict[str, set[str]]
) -> None:
    for query in queries:
        expression = parsed(query)
        selected = selectors(expression)
        assert selected, query
        for selector in selected:
            name = selector.name
            assert name in exposed, f"{name} of {query}"
            matched = {matcher.name for matcher in selector.matchers.matchers}
            unknown = (matched | grouping_labels(expression)) - exposed[name] - TARGET_LABELS
            assert not unknown, f"{name} has no label {unknown}: {query}"


def test_every_legend_names_labels_that_its_query_keeps(dashboard: Dashboard) -> None:
    legends = 0
    for panel in panels(dashboard):
        for target in panel["targets"]:
            labels = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            legends += len(labels)
            assert labels <= grouping_labels(parsed(target["expr"])) | TARGET_LABELS
    assert legends > 10


def test_every_query_asks_for_the_job_that_prometheus_scrapes(
    queries: list[str], scrape: dict[str, Any]
) -> None:
    (job,) = scrape["scrape_configs"]
    for query in queries:
        for selector in selectors(parsed(query)):
            values = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
            assert values["job"] == job["job_name"]
            assert values.get("grpc_service", SERVICE) == SERVICE


def test_every_rate_is_taken_over_the_rate_interval(queries: list[str]) -> None:
    ranges = {found for query in queries for found in re.findall(r"\[(.+?)\]", query)}
    assert ranges == {"$__rate_interval"}


def test_no_counter_or_histogram_is_drawn_without_a_rate(queries: list[str]) -> None:
    shown: Counter[str] = Counter()
    for query in queries:
        expression = parsed(query)
        shown.update(str(selector.name) for selector in selectors(expression))
        ranges = [one for one in nodes(expression) if isinstance(one, promql_parser.MatrixSelector)]
        shown.subtract(str(one.vector_selector.name) for one in ranges)
    as_it_is = [name for name, times in shown.items() if times]
    assert len(as_it_is) == 6
    cumulative = [name for name in as_it_is if re.search("_(total|sum|count|bucket)$", name)]
    assert cumulative == ["nyquist_provider_fallback_total"]  # counts at the start alone


def test_every_panel_has_a_title_a_description_a_unit_and_a_place_of_its_own(
    dashboard: Dashboard,
) -> None:
    drawn = panels(dashboard)
    known = {value for name, value in vars(units).items() if name[0].isupper()}
    assert len({panel["title"] for panel in drawn}) == len(drawn) > 10
    for panel in drawn:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in known, panel["title"]
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert identifiers == list(range(1, len(identifiers) + 1))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_accepts_its_configuration(root: Path) -> None:
    checked = subprocess.run(
        ["promtool", "check", "config", root / "deploy" / "prometheus" / "prometheus.yml"],  # noqa: S607 - wherever it is installed
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
