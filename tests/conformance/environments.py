"""Virtual environments of client libraries, whose pins clash with ours and with each other."""

import fcntl
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

CLIENTS = Path(__file__).parent / "clients"


@dataclass(frozen=True)
class Client:
    """A client library, and the script that makes it call everything it can.

    Attributes:
        name: as the table has it.
        environment: name of the folder that its environment gets under .venvs, and of the list of
            all its packages in requirements/peers.
        script: its file in tests/conformance/clients.
    """

    name: str
    environment: str
    script: str


ALL = (
    Client("tritonclient 2.73.0", "tritonclient-2.73.0", "triton.py"),
    Client("tritonclient 2.73.0 aio", "tritonclient-2.73.0", "triton_aio.py"),
    Client("tritonclient 2.41.0", "tritonclient-2.41.0", "triton.py"),
    Client("kserve 0.21.0", "kserve-0.21.0", "kserve_client.py"),
    Client("mlserver 1.7.1", "mlserver-1.7.1", "mlserver_client.py"),
)

OVER_HTTP = (
    Client("tritonclient 2.73.0 http", "tritonclient-http-2.73.0", "triton_http.py"),
    Client("tritonclient 2.73.0 http aio", "tritonclient-http-2.73.0", "triton_http_aio.py"),
    Client("kserve 0.21.0 http", "kserve-0.21.0", "kserve_http.py"),
)
"""Those that need what h2corn alone serves."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what came of one call."""

    call: str
    result: str


def interpreter(environment: str) -> Path:
    """Return the Python of an environment, made when it is first wanted or its list has changed.

    pip installs what the list names and nothing else: to find the versions again takes it minutes.
    """
    folder = ROOT / ".venvs" / environment
    listed, ready = ROOT / "requirements" / "peers" / f"{environment}.txt", folder / "ready"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f".{environment}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may want the same one
        if not ready.is_file() or ready.read_text() != listed.read_text():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps"]
            subprocess.run([*pip, "--only-binary", ":all:", "-r", listed], check=True)
            ready.write_text(listed.read_text())
    return folder / "bin" / "python"


def run_client(client: Client, arguments: Sequence[str]) -> list[Row]:
    """Run a client's script; each line that it prints is a row as JSON."""
    command = [interpreter(client.environment), CLIENTS / client.script]
    ended = subprocess.run(
        [*map(str, command), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [Row(**json.loads(line)) for line in ended.stdout.splitlines() if line.startswith("{")]
