"""What the companion shows of the server's load, and says where there is none to show."""

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from nyquist.client.client import Client
from nyquist.client.load import Reading, read
from nyquist.companion.page.charts import spark
from nyquist.companion.page.web import WebListener
from nyquist.companion.settings import read_settings
from nyquist.companion.watch.live import LiveLoad
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.wire.errors import StartError
from tests.companion.page_records import (
    SOUND,
    disagreement,
    filled_live,
    filled_record,
    listening,
    readings,
)
from tests.processes import RunningServer


def test_the_last_minute_and_the_way_to_it_are_kept_of_each_version() -> None:
    quiet, sound = filled_live().versions()
    assert sound.version == SOUND
    assert (sound.now.rate, sound.now.rejected, sound.waiting) == (20, 1, 3)
    assert sound.now.p50_s == pytest.approx(0.00625)
    assert sound.now.p99_s == pytest.approx(0.195)
    assert set(sound.rates) == {10, 20}
    assert sound.rates == tuple(sorted(sound.rates))
    assert (quiet.now.rate, quiet.now.p99_s, quiet.waiting) == (0, None, 0)
    assert set(quiet.p99s_s) == {None}


def test_a_server_that_is_away_is_said_and_begins_anew() -> None:
    answers: list[Reading | None] = [*readings(3), None, *readings(1)]

    def next_one() -> Reading:
        if (answer := answers.pop(0)) is None:
            raise ValueError("the metrics at server:8002 cannot be read: Connection refused")
        return answer

    live = LiveLoad(next_one, "server:8002")
    said = []
    for _ in range(5):
        live.look()
        said.append((live.reason, len(live.versions())))
    assert [count for _, count in said] == [0, 2, 2, 0, 0]
    assert said[2][0] == ""
    assert said[3][0].endswith("Connection refused")
    assert said[4][0] == "they were not read twice yet"


def test_a_line_without_axes_goes_from_nothing_to_its_greatest_value() -> None:
    assert spark([0.0, 4.0, 2.0]) == "M0.0 27.0h0L60.0 1.0L120.0 14.0"
    assert spark([None, 4.0, None, 4.0]) == "M40.0 1.0h0M120.0 1.0h0"
    assert spark([0.0, 0.0]) == "M0.0 27.0h0L120.0 27.0"
    assert spark([None]) == spark([]) == ""


@pytest.fixture(scope="module")
def shown(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebListener]:
    record = filled_record(read_manifest(repository / "fashion_blur", 1))
    odd = np.array([np.nan, 1.0, 2.0], np.float32)
    record.note_disagreement(disagreement(model="sound"))
    record.note_disagreement(
        type(disagreement())(**{**vars(disagreement()), "served": odd, "model": "odd"})
    )
    with listening(record, tmp_path_factory.mktemp("report"), live=filled_live()) as listener:
        yield listener


def ask(listener: WebListener, path: str) -> str:
    with closing(HTTPConnection("127.0.0.1", listener.port, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()


def test_the_overview_shows_the_load_and_programs_get_what_it_shows(shown: WebListener) -> None:
    page = ask(shown, "/")
    assert page.count('class="spark"') == 5
    assert "Parity of the last 20 probes, 1e-06 to 1e-06" in page
    assert "Requests a second, 10 to 20" in page
    assert "195 ms" in page
    sound = json.loads(ask(shown, "/api/load"))["models"][1]
    assert (sound["model"], sound["requests_per_s"], sound["waiting"]) == ("sound", 20, 3)
    document = json.loads(ask(shown, "/api/models"))
    (broken,) = (one for one in document["models"] if one["model"] == "broken")
    assert (broken["verdict"], broken["reason"]) == ("failing", "parity: logits differ")
    assert broken["parity"] == {"value": 0.25, "limit": 1e-4, "held": False}
    assert document["server"]["target"] == "127.0.0.1:8001"
    kept = json.loads(ask(shown, "/api/disagreements"))
    assert [one["model"] for one in kept] == ["odd", "sound", "broken"]
    assert kept[0]["served"] == [None, 1, 2]
    assert [one["model"] for one in json.loads(ask(shown, "/api/disagreements?model=sound"))] == [
        "sound"
    ]


def test_where_there_are_no_figures_the_page_says_why(repository: Path, tmp_path: Path) -> None:
    record = filled_record(read_manifest(repository / "fashion_blur", 1))
    with listening(record, tmp_path) as listener:
        assert "No figures from the server's metrics: they are not read." in ask(listener, "/")
        assert json.loads(ask(listener, "/api/load"))["reason"] == "they are not read"


def test_callers_alone_are_counted_of_a_server_that_runs(server: RunningServer) -> None:
    callers, probes = Client(server.target), Client(server.target, source="probe")
    live = LiveLoad(lambda: read("127.0.0.1", server.metrics_port, "client"), "here")
    live.look()
    with callers, probes:
        model = callers.describe("fashion_blur")
        picture = np.zeros((1, *model.shape), np.float32)
        for client in (callers, probes, probes):
            client.infer(model, picture)
    began = monotonic()
    while sum(one.now.requests for one in live.versions()) < 1:
        assert monotonic() - began < 30
        live.look()
    requests = {one.version[0]: one.now.requests for one in live.versions()}
    assert requests["fashion_blur"] == 1


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        ({}, ("localhost", 8002)),
        ({"target": "[::1]:9001"}, ("::1", 8002)),
        ({"target": "server:8001", "target_metrics": "other:9002"}, ("other", 9002)),
        ({"target_metrics": "off"}, None),
        ({"target": "dns:///server:8001"}, None),
    ],
)
def test_the_metrics_are_looked_for_beside_the_server(
    flags: dict[str, str], address: tuple[str, int] | None
) -> None:
    assert read_settings(flags).metrics_address == address


def test_an_address_of_metrics_is_host_and_port() -> None:
    with pytest.raises(StartError, match=r"--target-metrics is HOST:PORT, .* got '8002'"):
        read_settings({"target_metrics": "8002"})
