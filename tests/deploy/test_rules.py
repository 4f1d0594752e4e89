import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nyquist.server.telemetry.metrics import LATENCY_EDGES_S
from tests.deploy.promql import RULES, RUNBOOKS, alerts, runbook_queries

CASES = Path(__file__).parent / "rules"
PROBE_PERIOD_S = 60  # of the companion, by default

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which must find nothing wrong."""
    done = subprocess.run(
        ["promtool", *arguments],  # noqa: S607 - wherever it is installed
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def cases() -> list[dict[str, Any]]:
    """Return every case of the unit tests of the rules."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in CASES.glob("*.yml")]
    return [case for file in files for case in file["tests"]]


def outcomes(case: dict[str, Any]) -> set[tuple[str, str, bool]]:
    """Return the alerts and windows that a case looks for, and whether they fire in it."""
    found = {
        (one["alertname"], "", bool(one.get("exp_alerts")))
        for one in case.get("alert_rule_test", ())
    }
    for one in case.get("promql_expr_test", ()):
        for sample in one.get("exp_samples", ()):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
            if "alertname" in labels:
                found.add((labels["alertname"], labels["window"], True))
    return found


@needs_promtool
def test_prometheus_accepts_its_configuration_and_rules(root: Path) -> None:
    promtool("check", "config", root / "deploy" / "prometheus" / "prometheus.yml")


@needs_promtool
@pytest.mark.parametrize("file", sorted(CASES.glob("*.yml")), ids=lambda path: path.stem)
def test_the_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    promtool("test", "rules", file)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    looked_at = {outcome for case in cases() for outcome in outcomes(case)}
    assert len(alerts()) > 15
    for alert in alerts():
        name, window = alert["alert"], alert["labels"].get("window", "")
        assert (name, window, True) in looked_at, f"{name} {window} never fires"
        assert (name, "", False) in looked_at, f"{name} always fires"


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_it_means_and_where_to_read_on(
    root: Path, alert: dict[str, Any]
) -> None:
    said = alert["annotations"]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert "$labels" in said["summary"]
    assert not said["summary"].endswith(".")
    assert said["description"].strip().endswith(".")
    page_of = f"runbooks/{alert['alert']}"
    assert said["runbook_url"] == "{{ $externalLabels.docs }}/" + page_of + ".html"
    page = (root / "docs" / f"{page_of}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {alert['alert']}\n")
    for heading in ("## Look at", "## Do"):
        assert heading in page, page_of


def test_the_runbooks_are_those_of_the_alerts_and_their_list_has_them_all() -> None:
    names = {alert["alert"] for alert in alerts()}
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == names | {"README"}
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[\w+\]\((\w+)\.md\) \| (.+?) \|", index, re.M))
    severities: dict[str, set[str]] = {}
    for alert in alerts():
        severities.setdefault(alert["alert"], set()).add(alert["labels"]["severity"])
    assert rows == {name: ", ".join(sorted(found)) for name, found in severities.items()}


def test_every_runbook_names_a_query_that_parses() -> None:
    queries = list(runbook_queries())
    assert {query.place for query in queries} == {f"{alert['alert']}.md" for alert in alerts()}
    for query in queries:
        assert query.parsed


def test_a_broken_model_is_told_within_two_probes(scrape: dict[str, Any]) -> None:
    waits_s = [
        float(scrape["global"][name].removesuffix("s"))
        for name in ("scrape_interval", "evaluation_interval")
    ]
    assert sum(waits_s) < PROBE_PERIOD_S
    for alert in alerts():
        if alert["alert"] in ("NyquistParityBroken", "NyquistConsistencyDropped"):
            assert "for" not in alert, "the first bad probe counts"


def test_a_latency_objective_is_an_edge_of_the_histogram() -> None:
    text = (RULES / "objectives.yml").read_text(encoding="utf-8")
    edges = re.findall(r'le: "(.+?)"', text)
    assert {float(edge) for edge in edges} <= set(LATENCY_EDGES_S)
    assert f"{float(edges[-1]) * 1000:.0f} ms" in text, "the default, in words"


def test_a_link_to_a_runbook_is_absolute(scrape: dict[str, Any]) -> None:
    assert re.fullmatch(
        r"https?://[\w.:-]+(/.*)?(?<!/)", scrape["global"]["external_labels"]["docs"]
    )


def test_every_alert_is_read_as_it_is_rendered() -> None:
    # What a rule adds is not in $labels, and would be empty: each text is spelled out in a case.
    rendered = {
        (one["alertname"], fired["exp_labels"].get("window", ""))
        for case in cases()
        for one in case.get("alert_rule_test", ())
        for fired in one.get("exp_alerts", ())
        if fired.get("exp_annotations")
    }
    assert rendered == {(alert["alert"], alert["labels"].get("window", "")) for alert in alerts()}
