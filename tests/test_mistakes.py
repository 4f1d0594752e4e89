"""What a person mistypes at the command line, and the one line that answers it."""

import re

import pytest

from nyquist.__main__ import main

OPTIONS = {
    "serve --port 1 --port=2": "nyquist serve: error: --port stands twice, and takes one value",
    "status --target a:1 --target b:2": "--target stands twice, and takes one value",
    "companion check --target a:1 --target b:2": "--target stands twice, and takes one value",
    "serve --grpc-port 8001": "--grpc-port is Triton's, here it is --port",
    "serve --model-repository r": "--model-repository is Triton's, here it is --repository",
    "serve --host [::1]": r"host: an address stands without brackets, ::1, got '\[::1\]'",
    "companion --host [::1]": "host: an address stands without brackets, ::1",
}


def last_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Run a command; return its exit status and the last line that it wrote on standard error."""
    try:
        status: object = main(words)
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return status, said.splitlines()[-1]


@pytest.mark.parametrize(("words", "line"), OPTIONS.items(), ids=list(OPTIONS))
def test_a_wrong_option_is_answered_with_the_right_one(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = last_line(words.split(), capsys)
    assert status in (1, 2)
    assert re.search(line, said)
