"""Who hears of an alert, by the example of deploy/."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.promql import alerts

pytestmark = pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")


@pytest.fixture
def example(root: Path) -> Path:
    return root / "deploy" / "alertmanager" / "alertmanager.yml"


def amtool(*words: str | Path) -> str:
    """Run amtool, which must find nothing wrong."""
    done = subprocess.run(
        ["amtool", *words],  # noqa: S607 - wherever it is installed
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_alertmanager_accepts_the_example(example: Path) -> None:
    assert "2 receivers" in amtool("check-config", example)


@pytest.mark.parametrize(("severity", "receiver"), [("page", "pager"), ("ticket", "tickets")])
def test_every_severity_of_the_rules_reaches_its_receiver(
    example: Path, severity: str, receiver: str
) -> None:
    assert severity in {alert["labels"]["severity"] for alert in alerts()}
    route = ("config", "routes", "test", "--config.file", example)
    assert amtool(*route, f"severity={severity}", "model=m") == receiver


def test_what_is_left_out_names_alerts_that_there_are(example: Path) -> None:
    known = {alert["alert"] for alert in alerts()}
    rules = yaml.safe_load(example.read_text(encoding="utf-8"))["inhibit_rules"]
    named = {
        matcher.split('"')[1]
        for rule in rules
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
        if matcher.startswith('alertname="')
    }
    assert named == {"NyquistServerDown", "NyquistModelNotReady", "NyquistBudgetBurn"}
    assert named <= known
