"""The options of a companion that runs."""

import pytest

from nyquist.companion.command_line import make_parser
from nyquist.companion.settings import GROUPS, Settings, read_settings
from nyquist.server.settings import flag, is_secret, unknown_variables
from nyquist.server.wire.errors import StartError
from tests.processes import ROOT


def test_the_documentation_has_every_option_with_its_default() -> None:
    lines = (ROOT / "docs" / "companion.md").read_text(encoding="utf-8").splitlines()
    for name, field in Settings.model_fields.items():
        (row,) = (line for line in lines if f"| `NYQUIST_COMPANION_{name.upper()}` |" in line)
        assert row.endswith(f"| {field.description} |")
        assert (f"| `{flag(name)}` |" in row) is not is_secret(name, Settings)
        if field.default not in (None, (), False):
            plain = f"{field.default:g}" if isinstance(field.default, float) else field.default
            assert f"| {plain} |" in row


def test_every_option_stands_in_one_group_of_the_help() -> None:
    grouped = [name for group in GROUPS for name in group.model_fields]
    assert sorted(grouped) == sorted(Settings.model_fields)


@pytest.mark.parametrize("name", ["model", "allowed_hosts"])
def test_names_stand_apart_by_commas_or_by_flags(name: str) -> None:
    words = ["serve", flag(name), "a,b", flag(name), "c,"]
    given = {
        one: said for one, said in vars(make_parser().parse_args(words)).items() if one == name
    }
    assert getattr(read_settings(given), name) == ("a", "b", "c")
    assert getattr(read_settings({name: "a,b"}), name) == ("a", "b")


def test_flags_win_over_the_environment_and_that_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NYQUIST_COMPANION_PORT", "9003")
    monkeypatch.setenv("NYQUIST_COMPANION_HTTP_PORT", "9004")
    settings = read_settings({"port": "9"})
    assert (settings.port, settings.http_port, settings.history) == (9, 9004, 1440)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"probe_period_s": "0"}, "probe_period_s: Input should be greater than 0, got '0'"),
        ({"nice": "-5"}, "nice: .* greater than or equal to 0, got '-5'"),
        ({"tls_key": "k"}, "--tls-certificate and --tls-key come together"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(flags: dict[str, str], message: str) -> None:
    with pytest.raises(StartError, match=message):
        read_settings(flags)


def test_the_server_leaves_the_companions_variables_alone() -> None:
    assert unknown_variables({"NYQUIST_COMPANION_PORT": "9003"}) == []
    assert len(unknown_variables({"NYQUIST_COMPANIO": "9003"})) == 1
