"""What counts as an input of a build: the code that it imports and the data that it reads."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nyquist.export.closure import closure, modules_sha256
from nyquist.export.inputs import code_sha256, modules_of
from tests.processes import ROOT

PORTIONS = ("server", "models", "client", "companion", "export")
CODE_SHA256 = "from nyquist.export.inputs import code_sha256; print(code_sha256())"
BUILD_AND_TELL = """
import os, sys
from pathlib import Path
opened = set()
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        opened.add(os.fsdecode(arguments[0]))
sys.addaudithook(note)
import torch
torch.set_num_threads(1)
from nyquist.export.model import build_model
from nyquist.models.spec import ModelSpec
spec = ModelSpec("own", "compact", {"in_channels": 1}, None, (), "fashion", (1, 16, 16))
build_model(spec, Path(sys.argv[1]), lambda station: None, report=True)
print(*(m.__file__ for n, m in list(sys.modules.items()) if n.startswith("nyquist.")), sep="\\n")
print(*opened, sep="\\n")
"""


def python(program: str, *arguments: str, folder: Path | None = None) -> list[str]:
    """Run a program with a folder in front of all others; return its lines."""
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | ({} if folder is None else {"PYTHONPATH": str(folder)}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder with the whole package in one place, as a wheel leaves it."""
    for portion in PORTIONS:
        shutil.copytree(
            ROOT / portion / "nyquist",
            tmp_path / "nyquist",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "weights"),
        )
    return tmp_path


def test_a_real_build_reads_nothing_of_nyquist_that_does_not_count(tmp_path: Path) -> None:
    own = [ROOT / portion / "nyquist" for portion in PORTIONS]
    touched = {
        Path(line).resolve()
        for line in python(BUILD_AND_TELL, str(tmp_path))
        if any(Path(line).resolve().is_relative_to(folder) for folder in own)
    }
    modules = set(modules_of().values())
    data = {path for path in touched if path.suffix not in (".py", ".pyc") and path.is_file()}
    assert {path for path in touched if path.suffix == ".py"} <= modules
    assert ROOT / "models/nyquist/models/data/fashion_sample.npz" in data
    assert all(path.is_relative_to(ROOT / "models/nyquist/models/data") for path in data)


def test_an_installed_package_has_the_checksum_of_the_checkout(installed: Path) -> None:
    assert python(CODE_SHA256, folder=installed) == [code_sha256()]


@pytest.mark.parametrize(
    ("file", "change", "counts"),
    [
        ("server/runtime/session_settings.py", lambda text: text + "\nSPIN = 1\n", True),
        ("models/data/fashion_labels.txt", lambda text: text.replace("bag", "handbag"), True),
        ("server/runtime/engine.py", lambda text: f"# a comment\n{text}", False),
        ("export/report/templates/model.html", lambda text: f"{text}<!-- a comment -->", False),
        ("export/report/pages.py", lambda text: text + "\nPAPER = 1\n", False),
        ("export/command_line.py", lambda text: text + "\nHELP = 1\n", False),
        ("companion/page/routes.py", lambda text: text + "\nPAPER = 1\n", False),
    ],
)
def test_what_builds_counts_and_what_draws_pages_does_not(
    installed: Path, file: str, change: Callable[[str], str], counts: bool
) -> None:
    path = installed / "nyquist" / file
    path.write_text(change(path.read_text()))
    assert (python(CODE_SHA256, folder=installed) != [code_sha256()]) is counts


def test_imports_are_followed_from_wherever_they_stand(tmp_path: Path) -> None:
    files = {
        "shop/__init__.py": "",
        "shop/till.py": "def pay():\n    from shop.coins import euro, mint\n    import json\n",
        "shop/coins/__init__.py": "from . import euro\nfrom ..names import NAME",
        "shop/coins/euro.py": "import torch",
        "shop/names.py": "NAME = 'shop'",
        "shop/window.py": "",
    }
    write(tmp_path, files)
    found = closure(["shop.till"], {"shop": [tmp_path / "shop"]})
    assert list(found) == ["shop", "shop.coins", "shop.coins.euro", "shop.names", "shop.till"]
    assert found["shop.names"] == tmp_path / "shop" / "names.py"


def test_a_package_may_lie_in_several_folders(tmp_path: Path) -> None:
    write(tmp_path, {"a/shop/till.py": "import shop.coins", "b/shop/coins.py": ""})
    found = closure(["shop.till"], {"shop": [tmp_path / "a" / "shop", tmp_path / "b" / "shop"]})
    assert list(found) == ["shop.coins", "shop.till"]


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ('"""Say more."""\nLIMIT=1\n"""Of it."""\n', False),
        ("LIMIT = 1  # of it", False),
        ("LIMIT = 2", True),
        ("LIMIT = ", True),  # no Python any more
    ],
)
def test_comments_docstrings_and_layout_do_not_count(
    tmp_path: Path, changed: str, counts: bool
) -> None:
    write(tmp_path, {"before.py": '"""Say."""\n\nLIMIT = 1\n', "after.py": changed})
    before, after = (
        modules_sha256({"shop": tmp_path / f"{name}.py"}) for name in ("before", "after")
    )
    assert (before != after) is counts


def test_what_a_module_of_ones_own_imports_beside_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "counted_net.py": "import counted_layers\nfrom nyquist.models.train import main\n",
        "counted_layers.py": "",
        "counted_not.py": "",
        "data/pictures.npz": "",
    }
    write(tmp_path, files)
    monkeypatch.syspath_prepend(tmp_path)
    more = modules_of("counted_net").keys() - modules_of().keys()
    assert {"counted_net", "counted_layers", "nyquist.models.train"} <= more
    assert not any(name.startswith("counted_not") for name in more)
