"""Break the code in one place at a time, and see whether its nearest tests go red: make mutate.

files of a change -> places -> a drawn number of them, each broken in a copy -> tests -> survivors

python -m tests.mutate [FILE ...] [--number N] [--minutes M] [--seed S]

Without FILE: the files that differ from main, or from the commit before where this is main. The
mutations are cosmic-ray's; its own command would change files in place, and has no bound.
"""

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

from tests.processes import ROOT

PACKAGES = ("server", "models", "client", "companion", "export")
"""Folders with a portion of nyquist each."""
NEEDED = (*PACKAGES, "tests", "benchmarks", "deploy", "docs", "proto", "pyproject.toml")
ENOUGH = 0.9
"""Share of the mutants that is to turn the tests red."""
MOST_FILES = 3
"""Of tests, that a mutant is given to."""
SLACK = 4.0
"""Times as long as in health may a test take that is not red."""
OVERHEAD_S = 20.0

Place = tuple[int, int]


@dataclass(frozen=True)
class Mutation:
    """One change of one place.

    Attributes:
        operator: of cosmic-ray.
        occurrence: which of the places in a file that the operator can change.
        place: its line and column.
    """

    operator: Operator
    occurrence: int
    place: Place


def mutations(source: str) -> list[Mutation]:
    """Return every mutation of a file, but those of annotations, which nothing runs."""
    hints = [
        (start, end)
        for node in ast.walk(ast.parse(source))
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if hint is not None
        for start, end in [((hint.lineno, hint.col_offset), (hint.end_lineno, hint.end_col_offset))]
    ]
    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments():
            continue
        operator = kind()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        found += [
            Mutation(operator, occurrence, place)
            for occurrence, place in enumerate(places)
            if not any(start <= place < end for start, end in hints)
        ]
    return found


def drawn(found: Sequence[Mutation], dice: random.Random) -> list[Mutation]:
    """Draw one mutation of each place, in any order."""
    ordered = sorted(found, key=lambda one: one.place)
    chosen = [dice.choice(list(same)) for _, same in groupby(ordered, key=lambda one: one.place)]
    return dice.sample(chosen, len(chosen))


def imported(test: Path) -> set[str]:
    """Return the modules of nyquist that a test imports, or takes a name from."""
    names = set()
    for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("nyquist.")}


def nearest(file: Path, root: Path = ROOT) -> list[Path]:
    """Return the tests of a module: of its name, then those that import it and little else."""
    module = ".".join(file.relative_to(root).with_suffix("").parts[1:]).removesuffix(".__init__")
    by_imports = {test: imported(test) for test in (root / "tests").rglob("test_*.py")}
    found = [
        test
        for test, names in by_imports.items()
        if module in names or test.stem == f"test_{file.stem}"
    ]
    return sorted(
        found, key=lambda test: (test.stem != f"test_{file.stem}", len(by_imports[test]), test)
    )[:MOST_FILES]


def changed() -> list[Path]:
    """Return the files of nyquist that differ from main, or from the commit before on main."""

    def git(*words: str) -> str:
        command = ["git", *words]
        return subprocess.run(  # git, wherever it is installed
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        ).stdout.strip()

    base = git("merge-base", "main", "HEAD")
    if not base or base == git("rev-parse", "HEAD"):
        base = "HEAD~1"
    names = git("diff", "--name-only", "--diff-filter=d", base, "--", *PACKAGES).splitlines()
    return [ROOT / name for name in names if name.endswith(".py") and "/wire/pb/" not in name]


@dataclass(frozen=True)
class Bench:
    """A copy of the tree, to break."""

    folder: Path

    def red(self, tests: Sequence[Path], timeout_s: float) -> bool:
        """Say whether a test fails, or takes too long."""
        folders = (str(self.folder / package) for package in PACKAGES)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*folders, str(self.folder)]),
            "PYTHONDONTWRITEBYTECODE": "1",  # a file may change twice within its time stamp
        }
        options = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly")
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *map(str, tests)],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                return process.wait(timeout_s) != 0
            except subprocess.TimeoutExpired:
                return True
            finally:
                _end_group(process.pid)

    def survivors(
        self, file: Path, number: int, ends: float, dice: random.Random
    ) -> Iterator[tuple[Mutation, str]]:
        """Try mutations of a file; yield each with its diff, which is empty where a test was red.

        Raises:
            SystemExit: its tests are red as it is.
        """
        relative = file.relative_to(ROOT)
        tests = [test.relative_to(ROOT) for test in nearest(file)]
        target, source = self.folder / relative, file.read_text(encoding="utf-8")
        began = time.monotonic()
        if not tests or self.red(tests, 600):
            raise SystemExit(
                f"{relative}: {'its tests are red' if tests else 'no test imports it'}"
            )
        timeout_s = OVERHEAD_S + SLACK * (time.monotonic() - began)
        _say(f"{relative}: {', '.join(map(str, tests))}, {time.monotonic() - began:.0f} s")
        try:
            for mutation in drawn(mutations(source), dice)[:number]:
                if time.monotonic() > ends:
                    return
                broken = mutate_code(source, mutation.operator, mutation.occurrence)
                target.write_text(broken, encoding="utf-8")
                red = self.red(tests, timeout_s)
                yield mutation, "" if red else _difference(source, broken)
        finally:
            target.write_text(source, encoding="utf-8")


def _end_group(pid: int) -> None:
    """Kill what a test has left behind."""
    try:
        os.killpg(pid, 9)
    except ProcessLookupError:
        return


def _difference(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the command line


def copied(target: Path) -> Bench:
    """Copy what the tests need; the built models are linked."""
    for name in NEEDED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, target / name)
    (target / "model_repository").symlink_to(ROOT / "model_repository")
    return Bench(target)


def main() -> int:
    """Print the survivors; return 1 where too few were red."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--number", type=int, default=20, help="of mutants a file (%(default)s)")
    parser.add_argument("--minutes", type=float, default=20.0, help="for all of it (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")
    options = parser.parse_args()
    files = [file.resolve() for file in options.files] or changed()
    ends, dice = time.monotonic() + 60 * options.minutes, random.Random(options.seed)  # noqa: S311 - no secret
    tried = red = 0
    with tempfile.TemporaryDirectory() as scratch:
        bench = copied(Path(scratch))
        for file in files:
            for mutation, diff in bench.survivors(file, options.number, ends, dice):
                tried, red = tried + 1, red + (not diff)
                if diff:
                    _say(f"survived {file.relative_to(ROOT)}:{mutation.place[0]}\n{diff}")
    _say(f"{red} of {tried} mutants turned a test red" if tried else "no file of nyquist changed")
    return int(red < ENOUGH * tried)


if __name__ == "__main__":
    sys.exit(main())
