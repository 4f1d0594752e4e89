"""What a build reads, as one checksum: the same checksum, the same artifact. Read without torch.

imported code + versions + spec + weights + samples -> sha256
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nyquist.export.closure import closure, modules_sha256
from nyquist.models.onnx_file import one_file
from nyquist.models.spec import ModelSpec

BUILDER = "nyquist.export.model"
"""Has the function that builds."""

DATA = "data"
"""Folder beside modules of Nyquist that has the files they read; weights are a spec's own."""

BUILT_WITH = (
    "nyquist-serving",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "pillow",
)


def inputs_sha256(spec: ModelSpec) -> str:
    """Return the checksum of all that building this model reads, wherever the files lie.

    Raises:
        OSError: the weights or samples cannot be read.
    """
    described = asdict(spec) | {
        "weights": weights_sha256(spec),
        "program": None if spec.program is None else _file_sha256(spec.program),
        "onnx": None if spec.onnx is None else weights_sha256(spec),
        "samples": _source_sha256(spec.samples),
        "calibration": _source_sha256(spec.calibration),
        "module": _module_sha256(spec.architecture),
        "code": code_sha256(_own_module(spec.architecture)),
        "versions": package_versions(),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def weights_sha256(spec: ModelSpec) -> str | None:
    """Return the checksum of the checkpoint, program or ONNX file; None if there is none.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no ONNX file, or one whose weights are not beside it.
    """
    if spec.onnx is not None:
        return hashlib.sha256(one_file(spec.onnx)).hexdigest()
    file = spec.weights or spec.program
    return None if file is None else _file_sha256(file)


@cache
def code_sha256(module: str = "") -> str:
    """Return the checksum of the code that builds, and of the data that it reads.

    Args:
        module: of the user's, that makes the network.
    """
    modules = modules_of(module)
    own = (path.parent / DATA for name, path in modules.items() if name.startswith("nyquist."))
    data = [
        _tree_sha256(folder, (path for path in sorted(folder.rglob("*")) if path.suffix != ".md"))
        for folder in dict.fromkeys(own)
        if folder.is_dir()
    ]
    return hashlib.sha256("\n".join([modules_sha256(modules), *data]).encode()).hexdigest()


def modules_of(module: str = "") -> dict[str, Path]:
    """Return the file of every module that takes part in a build, by name.

    These are Nyquist's own, and with a module of the user's also that one and what it imports from
    the folder that it lies in; of an installed package, from that package alone.
    """
    places = {**(_neighbours(module) if module else {}), "nyquist": _portions()}
    return closure(filter(None, (BUILDER, module)), places)


def _portions() -> tuple[Path, ...]:
    """Return the folders of the package `nyquist`: one where installed, several in a checkout."""
    found = importlib.util.find_spec("nyquist")
    return tuple(map(Path, (found and found.submodule_search_locations) or ()))


def _neighbours(module: str) -> dict[str, tuple[Path, ...]]:
    """Return what lies beside a module of the user's, itself included."""
    top = module.partition(".")[0]
    found = importlib.util.find_spec(top)
    if found is None:
        return {}
    places = found.submodule_search_locations or [found.origin or ""]
    homes = [Path(place).parent for place in places]
    tops = {top: tuple(home / top for home in homes)}
    if any(home.name in ("site-packages", "dist-packages") for home in homes):
        return tops
    beside = {path.stem: (path.with_suffix(""),) for path in homes[0].iterdir()}
    return beside | tops


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of the packages that take part in a build."""
    found = {}
    for package in BUILT_WITH:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _source_sha256(source: str) -> str:
    folder = Path(source)
    if not source or not folder.is_dir():
        return source
    return _tree_sha256(folder, sorted(folder.rglob("*")))


def _own_module(architecture: str) -> str:
    """Return the module of module:function; nothing for an architecture of Nyquist's."""
    module, own, _ = architecture.partition(":")
    return module if own else ""


def _module_sha256(architecture: str) -> str:
    """Return the checksum of the code of module:function; of its whole package, if it has one."""
    module = _own_module(architecture)
    found = importlib.util.find_spec(module.partition(".")[0]) if module else None
    if found is None or found.origin is None:
        return ""
    origin = Path(found.origin)
    if found.submodule_search_locations is None:
        return _file_sha256(origin)
    return _tree_sha256(origin.parent, sorted(origin.parent.rglob("*.py")))


def _tree_sha256(folder: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {_file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
