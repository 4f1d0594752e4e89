"""The pages, and what on them names something of this repository."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHER_NAMES = {
    "nyquist.batch.size": "an attribute of a span",
    "nyquist.model.name": "another",
    "nyquist.model.version": "another",
    "nyquist.toml": "a file of the reader's own",
}
_NAME = re.compile(r"(?<![\w./-])(?:nyquist|deploy|benchmarks|tests)(?:\.[A-Za-z_]\w*)++")
_PATH = re.compile(r"(?<![\w./:-])(?P<folder>\w+)/[\w./*-]*")


def folders() -> set[str]:
    """Return the top-level folders that belong to the repository."""
    ignored = set((ROOT / ".gitignore").read_text(encoding="utf-8").split())
    kept = (path.name for path in ROOT.iterdir() if path.is_dir())
    return {
        name for name in kept if not name.startswith(".") and ignored.isdisjoint({name, f"{name}/"})
    }


def names_in(text: str) -> set[str]:
    """Return the dotted names of modules and what is in them."""
    return set(_NAME.findall(text)) - OTHER_NAMES.keys()


def paths_in(text: str) -> set[str]:
    """Return the paths in code that begin with a folder of the repository; `*` stands for any."""
    code = "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`", text, re.M | re.S))
    return {one[0].rstrip(".") for one in _PATH.finditer(code) if one["folder"] in folders()}


def contracts() -> set[str]:
    """Return the packages, services and messages of the .proto files."""
    found: set[str] = set()
    for path in (ROOT / "proto").glob("*.proto"):
        text = path.read_text(encoding="utf-8")
        for package in re.findall(r"^package ([\w.]+);", text, re.M):
            kinds = re.findall(r"^(?:service|message) (\w+)", text, re.M)
            found |= {package, *(f"{package}.{kind}" for kind in kinds)}
    return found


def section(text: str, heading: str) -> str:
    """Return what stands below a heading of the second level that begins so."""
    parts = re.split(r"^## ", text, flags=re.M)
    (found,) = (part for part in parts[1:] if part.startswith(heading))
    return found
