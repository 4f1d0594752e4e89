"""Who hears of an alert, by the example of deploy/."""

import json
import runpy
import shutil
import subprocess
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

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


def test_the_receiver_of_the_example_writes_a_line_for_each_alert_that_it_is_sent(
    example: Path, services: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    receivers = yaml.safe_load(example.read_text(encoding="utf-8"))["receivers"]
    to_pager, _ = (urlsplit(one["webhook_configs"][0]["url"]) for one in receivers)
    assert to_pager.hostname in services
    (mount,) = services["receiver"]["volumes"]
    program = Path(services["receiver"]["entrypoint"][1])
    assert mount.split(":")[1] == str(program.parent)
    alerts = [
        {
            "status": status,
            "labels": {"alertname": "Down"},
            "annotations": {"summary": "it is away"},
        }
        for status in ("firing", "resolved")
    ]
    handler = runpy.run_path(str(example.with_name(program.name)))["Receiver"]
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.handle_request).start()
        with closing(HTTPConnection("127.0.0.1", server.server_port)) as caller:
            caller.request("POST", to_pager.path, json.dumps({"alerts": alerts}))
            assert caller.getresponse().status == HTTPStatus.NO_CONTENT
    assert capsys.readouterr().out.splitlines() == [
        "page: Down firing: it is away",
        "page: Down resolved: it is away",
    ]
