"""Options: where they come from, and what is said of a wrong one."""

import os
from pathlib import Path

import pytest

from nyquist.server.command_line import flags_of, make_serve_parser
from nyquist.server.processes import with_workers
from nyquist.server.settings import (
    GROUPS,
    Settings,
    flag,
    is_secret,
    read_settings,
    unknown_variables,
)
from nyquist.server.sources.address import Address
from nyquist.server.wire.errors import StartError
from tests.processes import ROOT

SECRETS = ["token", "repository_token"]
TOKEN = "a-token-that-is-long-enough"  # noqa: S105 - opens nothing


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"NYQUIST_{name.upper()}", raising=False)


def settings(*arguments: str) -> Settings:
    return read_settings(flags_of(make_serve_parser().parse_args(arguments)))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the line that these options are refused with."""
    with pytest.raises(SystemExit) as ended:
        make_serve_parser().parse_args(arguments)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nyquist serve: error: ")
    return line


def config(folder: Path, text: str) -> str:
    path = folder / "nyquist.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NYQUIST_PORT", "2")
    monkeypatch.setenv("NYQUIST_THREADS", "2")
    path = config(tmp_path, "port = 1\nthreads = 1\ndrain_s = 1\n")
    made = settings("--config", path, "--port", "3")
    assert (made.port, made.threads, made.drain_s, made.grace_s) == (3, 2, 1.0, 30.0)


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NYQUIST_CONFIG", config(tmp_path, 'provider = "cpu"\n'))
    assert settings().provider == "cpu"


def test_an_empty_variable_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NYQUIST_PORT", "")
    assert settings().port == 8001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1\n", "has 'prot', did you mean port"),
        ('token = "x"\n', "has 'token', did you mean token_file"),
        ("port = \n", "is no TOML"),
        ('port = "http"\n', "port: Input should be a valid integer"),
    ],
)
def test_a_wrong_line_of_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        settings("--config", config(tmp_path, text))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(StartError, match=r"--config /nowhere cannot be read: No such file"):
        settings("--config", "/nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "9"], "--prot is no option, did you mean --port"),
        (["--max-message-size=9"], "did you mean --max-message-bytes"),
        (["--xyzzy"], "--xyzzy is no option, see nyquist serve --help"),
        (["--por", "9"], "--por is no option, did you mean --port"),
        (["--port"], "argument --port: expected one argument"),
        (["chek"], "'chek' is no option; they begin with --"),
    ],
)
def test_a_wrong_option_is_told_the_right_ones(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, *arguments)


@pytest.mark.parametrize("name", SECRETS)
def test_a_token_is_no_flag_and_is_not_repeated(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, f"{flag(name)}={TOKEN}")
    assert "others can read flags" in line
    assert TOKEN not in line
    assert f"{flag(name)}-file" in line


def test_the_secrets_are_the_tokens_and_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name in Settings.model_fields if is_secret(name)] == SECRETS
    monkeypatch.setenv("NYQUIST_TOKEN", TOKEN)
    made = settings()
    assert made.token is not None
    assert made.token.get_secret_value() == TOKEN
    assert TOKEN not in repr(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tls-key", "k"], "--tls-certificate and --tls-key come together"),
        (["--tls-client-ca", "c"], "--tls-client-ca needs --tls-certificate"),
        (["--provider", "gpu"], "'auto', 'cuda' or 'cpu', got 'gpu'"),
        (["--max-message-bytes", "0"], "max_message_bytes: .* greater than 0, got '0'"),
        (["--drain-s", "soon"], "drain_s: .* valid number"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_can(arguments: list[str], message: str) -> None:
    with pytest.raises(StartError, match=message):
        settings(*arguments)


def test_a_token_comes_from_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NYQUIST_TOKEN", TOKEN)
    with pytest.raises(StartError, match="NYQUIST_TOKEN and --token-file exclude each other"):
        settings("--token-file", "t")


def test_help_has_every_option_in_its_group_with_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        make_serve_parser().parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for group in GROUPS:
        title = f"{str(group.__doc__).rstrip('.')}:"
        section = text[text.index(title) :]
        for name, field in group.model_fields.items():
            if is_secret(name):
                assert f"NYQUIST_{name.upper()} {field.description}" in text
            else:
                assert flag(name) in section
                assert f"{field.description} (default: " in section
    assert "of gRPC; 0 lets the system choose (default: 8001)" in text


def test_every_option_stands_in_one_group() -> None:
    grouped = [name for group in GROUPS for name in group.model_fields]
    assert sorted([*grouped, "config"]) == sorted(Settings.model_fields)


def test_a_misspelt_variable_is_noticed_and_kubernetes_own_are_not() -> None:
    environment = {
        "NYQUIST_PROT": "1",
        "NYQUIST_PORT": "1",
        "NYQUIST_SERVICE_HOST": "10.0.0.1",
        "NYQUIST_SERVICE_PORT_GRPC": "8001",
        "NYQUIST_PORT_8001_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    (line,) = unknown_variables(environment)
    assert line.startswith("NYQUIST_PROT is no option, did you mean NYQUIST_PORT")


def test_the_documentation_has_every_option_with_its_default() -> None:
    lines = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").splitlines()
    for name, field in Settings.model_fields.items():
        (row,) = (line for line in lines if f"| `NYQUIST_{name.upper()}` |" in line)
        assert row.endswith(f"| {field.description} |")
        assert (f"| `{flag(name)}` |" in row) is not is_secret(name)
        if field.default not in (None, False, ()):
            one = field.default[0] if isinstance(field.default, tuple) else field.default
            plain = "on" if one is True else f"{one:g}" if isinstance(one, float) else one
            assert f"| {plain} |" in row


def test_an_option_of_several_values_is_repeated_or_has_its_separator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = (Path("/a"), Path("/b c"))
    assert settings("--link-folder", "/a", "--link-folder", "/b c").link_folder == asked
    path = config(tmp_path, 'link_folder = ["/a", "/b c"]\n')
    assert settings("--config", path).link_folder == asked
    monkeypatch.setenv("NYQUIST_LINK_FOLDER", f"/a{os.pathsep}/b c")
    assert settings().link_folder == asked


def test_repositories_and_names_are_repeated_and_no_name_is_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert settings().repository == (Path("model_repository"),)
    assert settings("--repository", "a", "--repository", "b").repository == (Path("a"), Path("b"))
    assert settings().load is None
    assert settings("--load", "one", "--load", "two").load == ("one", "two")
    assert settings("--load", "").load == ()
    monkeypatch.setenv("NYQUIST_LOAD", "one,two")
    assert settings().load == ("one", "two")
    with pytest.raises(StartError, match=r"repository: .* at least 1 item"):
        settings("--repository", "")
    with pytest.raises(StartError, match="--load and --poll-s exclude each other"):
        settings("--poll-s", "1")


def test_addresses_stand_beside_folders_with_blanks_between_and_secrets_in_them_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = (Address("s3", "bucket/prod"), Address("oci", "host:5000/nets:v1"), Path("/models"))
    monkeypatch.setenv("NYQUIST_REPOSITORY", "s3://bucket/prod/ oci://host:5000/nets:v1 /models")
    assert settings().repository == asked
    flags = [word for one in asked for word in ("--repository", str(one))]
    assert settings(*flags).repository == asked
    assert settings("--repository", "file:///models").repository == (Path("/models"),)
    with pytest.raises(StartError, match="without credentials") as raised:
        settings("--repository", "s3://me:hunter2@bucket/prod")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(("asked", "cores", "workers"), [
    ("auto", 1, 1), ("auto", 2, 1), ("auto", 7, 3), ("auto", 500, 64), ("3", 2, 3),
])  # fmt: skip
def test_workers_are_as_many_as_asked_for_or_one_for_two_cores(
    asked: str, cores: int, workers: int
) -> None:
    assert with_workers(read_settings({"workers": asked}), cores).workers == workers


def test_a_number_of_workers_is_one_or_auto() -> None:
    with pytest.raises(StartError, match="workers: Input should be a valid integer"):
        read_settings({"workers": "many"})
