"""How callers get to a server that has TLS, asks for a certificate and for a token."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from nyquist.client.classify import main as client
from nyquist.client.client import Client
from nyquist.companion.__main__ import main as companion
from nyquist.server.wire.connection import Connection, WrongConnection
from tests.processes import ROOT, RunningServer, start_server
from tests.server.certificates import Authority, Identity

TOKEN, OTHER = "connection-token-0123456789", "another-token-0123456789"
MODEL = "fashion_strided"
PICTURE = str(ROOT / "models/nyquist/models/data" / "fashion" / "ankle_boot.png")


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NYQUIST_TOKEN", raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def caller(authority: Authority) -> Identity:
    return authority.issue("caller", "caller.example")


@pytest.fixture(scope="module")
def guarded(
    repository: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with TLS, a client authority and a token."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / MODEL).symlink_to(repository / MODEL)
    own = authority.issue("server", "127.0.0.1")
    tokens = tmp_path_factory.mktemp("tokens") / "use"
    tokens.write_text(TOKEN, encoding="ascii")
    options = {"tls-certificate": own.certificate, "tls-key": own.key,
               "tls-client-ca": authority.root, "token-file": tokens}  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    running = start_server(folder, ("--drain-s", "0", *words))
    yield running
    assert running.stop() == 0


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\n{OTHER}\n", encoding="ascii")
    return path


def flags(authority: Authority, caller: Identity) -> list[str]:
    return [
        *("--ca", str(authority.root)),
        *("--client-certificate", str(caller.certificate), "--client-key", str(caller.key)),
    ]


def test_the_library_reaches_a_server_that_asks_for_a_certificate_and_a_token(
    guarded: RunningServer, authority: Authority, caller: Identity
) -> None:
    connection = Connection(
        guarded.target, authority.root, caller.certificate, caller.key, token=TOKEN
    )
    with Client(connection) as connected:
        model = connected.describe(MODEL)
        assert connected.ready(MODEL)
        pictures = np.zeros((2, *model.shape), np.float32)
        assert connected.infer(model, pictures).shape == (2, 10)
        assert len(connected.classify(model, pictures)) == 2


def test_a_token_file_is_read_for_each_call(
    guarded: RunningServer, authority: Authority, caller: Identity, tokens: Path
) -> None:
    connection = Connection(
        guarded.target, authority.root, caller.certificate, caller.key, token_file=tokens
    )
    with Client(connection) as connected:
        connected.describe(MODEL)
        tokens.write_text(OTHER, encoding="ascii")
        with pytest.raises(grpc.RpcError) as refused:
            connected.describe(MODEL)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        tokens.write_text(TOKEN, encoding="ascii")
        connected.describe(MODEL)


def test_the_commands_reach_it_with_their_flags(
    guarded: RunningServer,
    authority: Authority,
    caller: Identity,
    tokens: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = ["--model", MODEL, "--target", guarded.target, *flags(authority, caller)]
    assert client([PICTURE, *named, "--token-file", str(tokens)]) == 0
    assert "ankle boot" in capsys.readouterr().out
    command = ["check", *named, "--repository", str(ROOT / "model_repository")]
    assert companion([*command, "--token-file", str(tokens)]) == 0
    assert "ok" in capsys.readouterr().out


def test_the_commands_take_the_token_of_the_environment(
    guarded: RunningServer,
    authority: Authority,
    caller: Identity,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NYQUIST_TOKEN", TOKEN)
    named = ["--model", MODEL, "--target", guarded.target, *flags(authority, caller)]
    assert client([PICTURE, *named]) == 0
    assert TOKEN not in "".join(capsys.readouterr())


def complaint(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run both commands in vain, and return the one line that both of them say."""
    assert client([PICTURE, "--model", MODEL, *words]) == 1
    said = capsys.readouterr().err
    repository = str(ROOT / "model_repository")
    assert companion(["check", "--model", MODEL, "--repository", repository, *words]) == 2
    same = capsys.readouterr().err
    assert said.removeprefix("nyquist classify") == same.removeprefix("nyquist companion check")
    (line,) = said.splitlines()
    return line


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        (None, "ModelMetadata needs a token, .*; give one with --token-file or NYQUIST_TOKEN"),
        (OTHER, "the token that came with ModelMetadata is not known here; .* from NYQUIST_TOKEN"),
    ],
)
def test_a_missing_or_wrong_token_is_named_and_not_repeated(
    guarded: RunningServer,
    authority: Authority,
    caller: Identity,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str | None,
    advice: str,
) -> None:
    if token:
        monkeypatch.setenv("NYQUIST_TOKEN", token)
    line = complaint(["--target", guarded.target, *flags(authority, caller)], capsys)
    assert f"{guarded.target}: UNAUTHENTICATED: " in line
    assert re.search(advice, line)
    assert OTHER not in line


@pytest.mark.parametrize(
    ("ca", "shown", "advice"),
    [
        ("stranger", "caller", "no authority in --ca .*stranger.* signed the server's certificate"),
        ("authority", "nobody", "closed the connection; .*--client-certificate and --client-key"),
        ("authority", "stranger", "closed the connection; .*an authority that it knows"),
        ("nobody", "nobody", "closed the connection; if the server has TLS, name .* with --ca"),
    ],
)
def test_a_wrong_or_missing_certificate_is_told_apart(
    guarded: RunningServer,
    authority: Authority,
    caller: Identity,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ca: str,
    shown: str,
    advice: str,
) -> None:
    stranger = Authority(tmp_path / "stranger")
    roots = {"authority": ["--ca", str(authority.root)], "stranger": ["--ca", str(stranger.root)]}
    identities = {"caller": caller, "stranger": stranger.issue("caller", "caller.example")}
    words = ["--target", guarded.target, *roots.get(ca, ())]
    if identity := identities.get(shown):
        words += ["--client-certificate", str(identity.certificate)]
        words += ["--client-key", str(identity.key)]
    line = complaint(words, capsys)
    assert f"{guarded.target}: UNAVAILABLE: " in line
    assert re.search(advice, line)


def test_a_name_that_the_certificate_lacks_is_named(
    guarded: RunningServer,
    authority: Authority,
    caller: Identity,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--target", f"localhost:{guarded.port}", *flags(authority, caller)]
    assert "the server's certificate is not for 'localhost'" in complaint(words, capsys)


def test_tls_to_a_server_without_it_is_named(
    server: RunningServer, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--target", server.target, "--ca", str(authority.root)]
    assert "the server does not speak TLS; leave --ca out" in complaint(words, capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--client-key", "k"], "--client-certificate and --client-key come together"),
        (["--client-certificate", "c", "--client-key", "k"], "--client-certificate needs --ca"),
        (["--ca", "/nowhere"], "--ca /nowhere cannot be read: No such file"),
        (["--ca", PICTURE], f"--ca {PICTURE} is no PEM file with a CERTIFICATE"),
        (["--token-file", "/nowhere"], "--token-file /nowhere cannot be read: No such file"),
        (["--token-file", os.devnull], f"--token-file {os.devnull} has no token"),
    ],
)
def test_what_cannot_be_used_is_named_before_a_call(
    capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert reason in complaint(words, capsys)


def test_a_token_that_cannot_travel_is_refused_without_repeating_it() -> None:
    with pytest.raises(WrongConnection, match="the token of NYQUIST_TOKEN is not plain ASCII"):
        Connection(token="pässwörd").metadata()  # noqa: S106 - opens nothing
    assert TOKEN not in repr(Connection(token=TOKEN))
