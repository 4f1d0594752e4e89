import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from grafana_foundation_sdk.models import units

from nyquist.server.front.inference_service import SERVICE
from nyquist.server.wire.errors import NyquistError
from tests.deploy.promql import (
    DASHBOARDS,
    TARGET_LABELS,
    Dashboard,
    alerts,
    dashboards,
    grouping_labels,
    matched,
    nodes,
    panel_queries,
    panels,
    ranges,
    recorded,
    selectors,
    variables,
)

KINDS = {"timeseries", "stat", "bargauge", "table"}
UNITS = {value for name, value in vars(units).items() if name[0].isupper()}
CUMULATIVE = re.compile("_(total|sum|count|bucket)$")
STARTED_AND_ENDED = {"grpc_server_started_total", "grpc_server_handled_total"}
EVENTS_OF_A_START = {"nyquist_provider_fallback_total"}

every_dashboard = pytest.mark.parametrize("board", dashboards().values(), ids=dashboards())


def test_the_dashboards_are_what_their_script_writes(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.grafana", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, timeout=60)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in DASHBOARDS.iterdir()}
    assert set(dashboards()) == {"overview", "model", "validation", "rollout"}


def test_titles_and_identifiers_are_unique_and_no_dashboard_can_be_edited() -> None:
    boards = dashboards().values()
    for key in ("uid", "title"):
        assert len({board[key] for board in boards}) == len(boards)
    assert boards
    assert all(board["uid"].startswith("nyquist-") for board in boards)
    assert not any(board["editable"] for board in boards)


@every_dashboard
def test_every_dashboard_has_the_schema_of_grafana_12_and_panels_that_are_drawn_here(
    board: Dashboard,
) -> None:
    assert board["schemaVersion"] == 42
    assert {panel["type"] for panel in panels(board)} <= KINDS


@every_dashboard
def test_every_dashboard_links_to_the_others_with_time_and_variables(board: Dashboard) -> None:
    (link,) = board["links"]
    assert link["type"] == "dashboards"
    assert set(link["tags"]) <= set(board["tags"])
    assert link["keepTime"]
    assert link["includeVars"]


@every_dashboard
def test_every_panel_asks_the_chosen_data_source(board: Dashboard) -> None:
    asked = [
        holder["datasource"] for panel in panels(board) for holder in (panel, *panel["targets"])
    ]
    asked += [one["datasource"] for one in variables(board).values() if one["type"] == "query"]
    assert len(asked) > 24
    assert asked
    assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in asked)


@every_dashboard
def test_the_data_source_chosen_at_first_is_the_provisioned_one(
    board: Dashboard, source: dict[str, Any]
) -> None:
    chosen = variables(board)["datasource"]
    assert chosen["query"] == source["type"] == "prometheus"
    assert chosen["current"] == {"text": source["name"], "value": source["uid"]}


@every_dashboard
def test_every_variable_that_is_asked_for_is_there_and_every_one_there_is_asked_for(
    board: Dashboard,
) -> None:
    asked = {
        name
        for query in panel_queries(board)
        for name in re.findall(r"\$(\w+)", query.expression)
        if not name.startswith("__")
    }
    assert asked | {"datasource"} == set(variables(board))
    assert {"job", "model"} <= asked


@every_dashboard
def test_every_query_parses_and_asks_for_its_job(board: Dashboard) -> None:
    for query in panel_queries(board):
        selected = selectors(query.parsed)
        assert selected, query
        if query.place.split(" / ")[1] in ("$job", "$companion"):
            continue
        for selector in selected:
            labels = matched(selector)
            if selector.name == "ALERTS":
                assert any(re.fullmatch(labels["alertname"], one["alert"]) for one in alerts())
                continue
            assert "job" in labels, query
            assert labels.get("grpc_service", SERVICE) == SERVICE
            if ":" in str(selector.name):
                assert selector.name in recorded()


@every_dashboard
def test_every_legend_names_labels_that_its_query_keeps(board: Dashboard) -> None:
    legends = 0
    for panel in panels(board):
        for target in panel["targets"]:
            labels = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            legends += len(labels)
            if grouped := grouping_labels(promql_parser.parse(_without_variables(target["expr"]))):
                assert labels <= grouped | TARGET_LABELS, target
    assert legends > 5


def _without_variables(expression: str) -> str:
    return re.sub(r"\$\w+", "20s", expression)


@every_dashboard
def test_every_rate_is_taken_over_the_rate_interval(board: Dashboard) -> None:
    found = {
        span
        for query in panel_queries(board)
        for span in re.findall(r"\[(.+?)\]", query.expression)
    }
    assert found == {"$__rate_interval"}


@every_dashboard
def test_no_counter_or_histogram_is_drawn_without_a_rate(board: Dashboard) -> None:
    for query in panel_queries(board):
        expression = query.parsed
        shown = Counter(str(selector.name) for selector in selectors(expression))
        shown.subtract(str(one.vector_selector.name) for one in ranges(expression))
        as_it_is = {name for name, times in shown.items() if times and CUMULATIVE.search(name)}
        assert as_it_is <= EVENTS_OF_A_START or as_it_is == STARTED_AND_ENDED, query


@every_dashboard
def test_every_sum_comes_after_its_rate(board: Dashboard) -> None:
    for query in panel_queries(board):
        for node in nodes(query.parsed):
            if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "increase"):
                (argument,) = node.args
                assert isinstance(argument, promql_parser.MatrixSelector), query


@every_dashboard
def test_every_panel_has_a_title_a_description_a_unit_and_a_place_of_its_own(
    board: Dashboard,
) -> None:
    drawn = panels(board)
    assert len({panel["title"] for panel in drawn}) == len(drawn) > 9
    for panel in drawn:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
    identifiers = [panel["id"] for panel in board["panels"]]
    assert identifiers == list(range(1, len(identifiers) + 1))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_latency_comes_first() -> None:
    first, *_ = panels(dashboards()["overview"])
    assert first["title"].startswith("Latency")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("overview", "Calls by status code"),
        ("overview", "Rejected by reason"),
        ("model", "Rejected by reason"),
    ],
)
def test_what_went_well_is_green_alone_and_what_broke_is_red(name: str, title: str) -> None:
    (panel,) = [panel for panel in panels(dashboards()[name]) if panel["title"] == title]
    colors = {
        override["matcher"]["options"]: value["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
        for value in override["properties"]
        if value["id"] == "color"
    }
    assert [series for series, color in colors.items() if color == "red"] in (
        ["INTERNAL"],
        ["failed"],
    )
    assert {series for series, color in colors.items() if "green" in color} <= {"OK"}
    if title == "Rejected by reason":
        kinds: list[type[NyquistError]] = [NyquistError, *NyquistError.__subclasses__()]
        assert {kind.reason for kind in kinds} <= {*colors}
