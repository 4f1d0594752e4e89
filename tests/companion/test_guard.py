"""Who may read the companion's pages, and what those get who may not."""

import base64
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest

from nyquist.__main__ import main
from nyquist.companion.app import make_authorizer
from nyquist.companion.page.web import WebListener
from nyquist.companion.settings import read_settings
from nyquist.companion.watch.record import SHADOW, Record
from tests.companion.page_records import disagreement, filled_history, listening, new_record

TOKEN = "a-token-of-32-characters-or-more"  # noqa: S105 - of the test
PICTURE = "data:image/png"


@pytest.fixture(scope="module")
def record() -> Record:
    """A record with a picture of live traffic, and one of a probe."""
    made = new_record()
    made.note_disagreement(replace(disagreement(), source=SHADOW))
    made.note_disagreement(disagreement())
    return made


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def near(record: Record, report: Path) -> Iterator[WebListener]:
    with listening(record, report) as listener:
        yield listener


@pytest.fixture(scope="module")
def far(record: Record, report: Path) -> Iterator[WebListener]:
    with listening(record, report, history=filled_history(), host="0.0.0.0") as listener:  # noqa: S104 - not listened on: what the guard is told
        yield listener


@pytest.fixture(scope="module")
def closed(
    record: Record, report: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebListener]:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"another-token-of-32-characters!!\n{TOKEN}\n")
    authorizer = make_authorizer(read_settings({"token_file": file}))
    history = filled_history()
    with listening(record, report, None, history, authorizer, host="0.0.0.0") as listener:  # noqa: S104 - likewise
        yield listener


def ask(
    listener: WebListener, path: str = "/", host: str = "localhost", authorization: str = ""
) -> tuple[int, str, str]:
    """Return status, text and the challenge of an answer."""
    headers = {"host": host} | ({"authorization": authorization} if authorization else {})
    with closing(HTTPConnection("127.0.0.1", listener.port, timeout=10)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        challenge = answer.headers.get("www-authenticate", "")
        return answer.status, answer.read().decode(), challenge


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("host", "near_status", "far_status"),
    [
        ("localhost", 200, 200),
        ("LOCALHOST.:8004", 200, 200),
        ("127.0.0.1:8004", 200, 200),
        ("[::1]:8004", 200, 200),
        ("10.1.2.3:8004", 421, 200),
        ("[2001:db8::7]", 421, 200),
        (socket.gethostname(), 421, 200),
        ("evil.example", 421, 421),
        ("127.0.0.1.evil.example:8004", 421, 421),
        ("localhost.evil.example", 421, 421),
    ],
)
def test_only_names_of_this_machine_are_answered(
    near: WebListener, far: WebListener, host: str, near_status: int, far_status: int
) -> None:
    for listener, status in ((near, near_status), (far, far_status)):
        for path in ("/", "/api/probes.json", "/lab"):
            found, text, _ = ask(listener, path, host)
            assert found == status, (path, text)
    if near_status == 421:
        assert ask(near, "/", host)[1] == (
            f"host {host!r} is not known here: --allowed-hosts names those that are\n"
        )


def test_metrics_and_health_answer_by_any_name_and_without_a_token(closed: WebListener) -> None:
    for path in ("/metrics", "/healthz"):
        assert ask(closed, path, "companion.monitoring.svc")[0] == 200
    assert ask(closed, "/metrics/", "companion.monitoring.svc")[0] == 421


def test_hosts_that_are_named_are_those_that_are_answered(record: Record, report: Path) -> None:
    with listening(record, report, allowed_hosts=("Nyquist.example", "[::1]")) as listener:
        assert ask(listener, host="nyquist.example:443")[0] == 200
        assert ask(listener, host="[::1]:8004")[0] == 200
        assert ask(listener, host="localhost")[0] == 421
    with listening(record, report, allowed_hosts="*") as listener:
        assert ask(listener, host="anything.example")[0] == 200


def test_pages_and_api_want_a_token_where_there_are_some(closed: WebListener) -> None:
    for path in ("/", "/models/x", "/page.css", "/report/", "/api/probes.csv", "/lab", "/nothing"):
        status, text, challenge = ask(closed, path)
        assert (status, challenge[:5]) == (401, "Basic"), path
        assert "the page needs a token" in text
    for right in (f"Bearer {TOKEN}", basic(TOKEN), "Bearer another-token-of-32-characters!!"):
        assert ask(closed, "/", authorization=right)[0] == 200
    for wrong in ("Bearer nobody", basic("nobody"), "Basic !", "Basic /w==", TOKEN, basic("")):
        status, text, _ = ask(closed, "/", authorization=wrong)
        assert (status, text) == (401, "the token that came with the page is not known here\n")


def test_the_command_brings_its_token_and_says_what_it_is_refused_for(
    closed: WebListener,
    near: WebListener,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["rollout", "broken", "--companion", f"127.0.0.1:{closed.port}"]
    monkeypatch.setenv("NYQUIST_TOKEN", TOKEN)
    assert main(asked) == 1
    assert "broken version 2 beside version 1: hold" in capsys.readouterr().out
    monkeypatch.delenv("NYQUIST_TOKEN")
    assert main(asked) == 2
    assert "the page needs a token, sent once as" in capsys.readouterr().err
    assert main([*asked[:-1], f"127.1:{near.port}"]) == 2
    assert "--allowed-hosts names those that are" in capsys.readouterr().err


def test_callers_pictures_are_shown_to_this_machine_or_with_a_token_alone(
    near: WebListener, far: WebListener, closed: WebListener
) -> None:
    seen = {
        "near": ask(near)[1],
        "far": ask(far)[1],
        "token": ask(closed, authorization=f"Bearer {TOKEN}")[1],
    }
    assert {who: text.count(PICTURE) for who, text in seen.items()} == {
        "near": 2,
        "far": 1,
        "token": 2,
    }
    assert seen["far"].count("shown where the pages ask for a token") == 1
    assert PICTURE not in ask(far, "/rollouts/broken")[1]
    assert "shown where the pages ask for a token" in ask(far, "/rollouts/broken")[1]


def test_requests_that_stand_still_take_nobodys_place_and_are_closed(
    record: Record, report: Path
) -> None:
    with listening(record, report, request_s=1.0) as listener, ExitStack() as stack:
        half = [
            stack.enter_context(socket.create_connection(("127.0.0.1", listener.port), timeout=30))
            for _ in range(200)
        ]
        for one in half:
            one.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert ask(listener, "/healthz")[:2] == (200, "ok\n")
        for one in half:
            while one.recv(1000):  # perhaps 408 first
                pass
