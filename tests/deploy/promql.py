"""The queries of dashboards, rules and runbooks, and what they name."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
RULES = ROOT / "deploy" / "prometheus" / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
TARGET_LABELS = {"job", "instance"}  # Prometheus adds them to what it scrapes
EVERYTHING = {"job": ".+", "companion": ".+", "model": ".+", "datasource": "prometheus"}

Dashboard = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """PromQL, and where it stands."""

    place: str
    expression: str

    @property
    def parsed(self) -> promql_parser.Expr:
        """The query as Grafana would send it, as a tree."""
        return promql_parser.parse(self.sent())

    def sent(self, interval: str = "20s") -> str:
        """Return the query as Grafana would send it with every variable at All."""
        text = self.expression.replace("$__rate_interval", interval)
        return re.sub(r"\$(\w+)", lambda found: EVERYTHING[found[1]], text)


def dashboards() -> dict[str, Dashboard]:
    """Return the committed dashboards by the names of their files."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(DASHBOARDS.glob("*.json"))
    }


def panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Return the panels that draw something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: Dashboard) -> dict[str, dict[str, Any]]:
    """Return the variables by name."""
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def panel_queries(dashboard: Dashboard) -> Iterator[Query]:
    """Return the query of every panel, and of every variable."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            place = f"{dashboard['title']} / {panel['title']} / {target['refId']}"
            yield Query(place, target["expr"])
    for name, variable in variables(dashboard).items():
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"])
            assert found, variable["query"]
            yield Query(f"{dashboard['title']} / ${name}", found[1])


def rules() -> Iterator[dict[str, Any]]:
    """Return every rule, recording and alerting."""
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def alerts() -> list[dict[str, Any]]:
    """Return the alerting rules."""
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    """Return the names that recording rules write."""
    return {rule["record"] for rule in rules() if "record" in rule}


def runbook_queries() -> Iterator[Query]:
    """Return the queries that the runbooks tell to look at."""
    for path in sorted(RUNBOOKS.glob("*.md")):
        for block in re.findall(r"```promql\n(.+?)\n```", path.read_text(encoding="utf-8"), re.S):
            yield Query(path.name, block)


def nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    """Return every node of an expression."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(expression, found.append)
    return found


def selectors(expression: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """Return what an expression selects, at an instant or over a range."""
    return [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]


def ranges(expression: promql_parser.Expr) -> list[promql_parser.MatrixSelector]:
    """Return what an expression selects over a range."""
    return [node for node in nodes(expression) if isinstance(node, promql_parser.MatrixSelector)]


def grouping_labels(expression: promql_parser.Expr) -> set[str]:
    """Return the labels that an expression groups or joins by."""
    labels: set[str] = set()
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and node.modifier and node.modifier.matching:
            labels.update(node.modifier.matching.labels)
    return labels


def matched(selector: promql_parser.VectorSelector) -> dict[str, str]:
    """Return the labels that a selector asks for, and what of them."""
    return {matcher.name: matcher.value for matcher in selector.matchers.matchers}
