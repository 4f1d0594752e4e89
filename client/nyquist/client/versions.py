"""nyquist version: what is installed.   distributions -> table or JSON, nothing imported."""

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from nyquist.__main__ import DISTRIBUTION, EXTRAS, is_installed

PACKAGES = (DISTRIBUTION, "onnxruntime", "onnxruntime-gpu", "torch")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist version`."""
    parser = argparse.ArgumentParser(
        prog="nyquist version", description="Say which versions and extras are installed."
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the versions and the extras; return the exit status."""
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    extras = {extra: is_installed(extra) for extra in EXTRAS}
    if options.json:
        sys.stdout.write(json.dumps({"versions": versions, "extras": extras}, indent=2) + "\n")
        return 0
    for name, found in versions.items():
        sys.stdout.write(f"{name:16} {found or 'not installed'}\n")
    there = ", ".join(extra for extra, installed in extras.items() if installed)
    sys.stdout.write(f"{'extras':16} {there or 'none'}\n")
    return 0


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
