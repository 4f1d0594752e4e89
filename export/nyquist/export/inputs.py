"""What a build reads, as one checksum: the same checksum, the same artifact. Read without torch.

code + versions + spec + weights + samples -> sha256
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nyquist.models.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[3]
CODE = (
    "models/**/*.py",
    "models/nyquist/models/data/**/*",
    "companion/**/*.py",
    "export/**/*",
    "server/nyquist/server/runtime/engine.py",
    "server/nyquist/server/artifact/manifest.py",
    "server/nyquist/server/artifact/model_config.py",
    "server/nyquist/server/wire/framing.py",
    "server/nyquist/server/wire/pictures.py",
)
"""What decides the content of an artifact; the rest of the server only reads it."""

BUILT_WITH = (
    "nyquist",
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
        "samples": _source_sha256(spec.samples),
        "calibration": _source_sha256(spec.calibration),
        "module": _module_sha256(spec.architecture),
        "code": code_sha256(),
        "versions": package_versions(),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def weights_sha256(spec: ModelSpec) -> str | None:
    """Return the checksum of the checkpoint, None if there is none. Raises OSError."""
    return None if spec.weights is None else _file_sha256(spec.weights)


@cache
def code_sha256() -> str:
    """Return the checksum of Nyquist's own code and data."""
    paths = sorted({path for pattern in CODE for path in ROOT.glob(pattern)})
    return _tree_sha256(ROOT, (path for path in paths if "__pycache__" not in path.parts))


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


def _module_sha256(architecture: str) -> str:
    """Return the checksum of the code of module:function; of its whole package, if it has one."""
    module, own, _ = architecture.partition(":")
    found = importlib.util.find_spec(module.partition(".")[0]) if own else None
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
