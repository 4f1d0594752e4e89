"""Copies of built models, to be changed as a test needs them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def copy_model(repository: Path, target: Path, name: str = "fashion_strided") -> Path:
    """Copy a built model into another repository and return its folder."""
    return shutil.copytree(repository / name, target / name)


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object], version: int = 1) -> None:
    """Change the manifest of one version in place."""
    path = folder / str(version) / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def add_version(folder: Path, version: int, *, of: int = 1) -> Path:
    """Add another version of a model, whole and as a build would have made it."""
    fresh = folder.with_name(f".{folder.name}.{version}")
    shutil.copytree(folder / str(of), fresh)

    def renumber(content: dict[str, Any]) -> None:
        content["version"] = version
        content["files"] = {
            path.replace(f"{of}/", f"{version}/", 1) if path.startswith(f"{of}/") else path: digest
            for path, digest in content["files"].items()
        }

    path = fresh / "manifest.json"
    content = json.loads(path.read_text())
    renumber(content)
    path.write_text(json.dumps(content))
    return fresh.rename(folder / str(version))


def damage(path: Path) -> bytes:
    """Change one byte of a file; return what it held, to repair it with."""
    sound = path.read_bytes()
    path.write_bytes(sound[:-2] + bytes([sound[-2] ^ 1]) + sound[-1:])
    return sound


def touch(path: Path) -> None:
    """Let a file look changed, whatever the clock's resolution."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def set_config(folder: Path, addition: str) -> None:
    """Add settings to a model's config.pbtxt, as an operator would."""
    path = folder / "config.pbtxt"
    path.write_text(path.read_text() + addition)
