"""Build networks of timm, torchvision and Hugging Face, from their functions and from programs.

module:function, or module:function -> net.pt2 -> nyquist build -> a row of the table

    python -m tests.interop.networks [--only NAME ...] [--results FOLDER]

Each row is written when it is known, and only rows that are missing are built: a run that was
interrupted goes on where it was. Delete the folder to begin anew.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.conformance.environments import interpreter
from tests.processes import ROOT

MODULE = "tests.interop.third_party"
SOURCES = ("function", "program")
LONGEST_S = 900


@dataclass(frozen=True)
class Row:
    """What came of one build.

    Attributes:
        network: function of third_party.py.
        source: function or program.
        parity: largest difference from PyTorch, relative to the largest logit; None if not built.
        reason: why it was not built, in the build's words; empty if it was.
        seconds: of the whole, by the clock, saving of the program included.
    """

    network: str
    source: str
    parity: float | None
    reason: str
    seconds: float


def names() -> list[str]:
    """Names of the networks, read without importing their packages."""
    tree = ast.parse((Path(__file__).parent / "third_party.py").read_text())
    functions = [each.name for each in tree.body if isinstance(each, ast.FunctionDef)]
    return [name for name in functions if name != "save"]


def build_environment() -> dict[str, str]:
    """Return the environment in which the packages of third_party.py are found beside ours."""
    python = interpreter("third-party")
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(packages)))}


def build(network: str, source: str, folder: Path) -> Row:
    """Build a network into folder/repository; a program is built without the packages it is of."""
    start = time.monotonic()
    with_theirs = build_environment()
    name = f"{network}_{source}"
    command = [sys.executable, "export/build.py", "--json", "--jobs", "1", "--max-batch-size", "2"]
    command += ["--output", str(folder / "repository"), "--name", name, "--input", "3x224x224"]
    if source == "program":
        program = folder / f"{network}.pt2"
        save = [sys.executable, "-m", MODULE, network, str(program)]
        failed = _run(save, with_theirs)
        command += ["--program", str(program)]
        ended = failed if failed.returncode else _run(command, dict(os.environ))
        program.unlink(missing_ok=True)
    else:
        ended = _run([*command, "--arch", f"{MODULE}:{network}"], with_theirs)
    parity, reason = None, ""
    if ended.returncode == 0:
        (built,) = json.loads(ended.stdout)["built"]
        parity = built["figures"]["parity"]
    elif ended.stdout:
        reason = "; ".join(json.loads(ended.stdout)["failed"][name])
    else:
        reason = ended.stderr.strip().splitlines()[-1]
    return Row(network, source, parity, reason, round(time.monotonic() - start, 1))


def _run(command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table of Markdown."""
    lines = ["| network | source | built | parity | s |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        parity = "" if row.parity is None else f"{row.parity:.1e}"
        cells = (row.network, row.source, row.reason or "yes", parity, f"{row.seconds:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Build what has no row yet, print the table; 1 if anything was not built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names(), default=names(), metavar="NAME")
    parser.add_argument("--results", type=Path, default=ROOT / ".venvs" / "networks")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    rows = []
    wanted = [(network, source) for network in options.only for source in SOURCES]
    for number, (network, source) in enumerate(wanted, 1):
        file = options.results / f"{network}_{source}.json"
        sys.stderr.write(f"{number} of {len(wanted)}: {network} as a {source}\n")
        if not file.is_file():
            file.write_text(json.dumps(asdict(build(network, source, options.results))))
        rows.append(Row(**json.loads(file.read_text())))
    sys.stdout.write(table(rows))
    return int(any(row.reason for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
