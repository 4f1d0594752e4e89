"""All code that importing a module may run, found without running any of it.

module -> its source -> what that imports, here or inside a function -> their modules -> ...
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

Places = Mapping[str, Sequence[Path]]
"""Top-level name -> where its modules lie, without suffix: the portions of a package, or a file."""


@dataclass(frozen=True)
class Source:
    """What is in one file of Python.

    Attributes:
        sha256: of its syntax tree; comments, docstrings and layout do not count.
        imports: every name that a statement of it may load, modules or what lies in them; those
            of `from . import x` as `.x`.
    """

    sha256: str
    imports: tuple[str, ...]


def closure(roots: Iterable[str], places: Places) -> dict[str, Path]:
    """Return the file of every module that the roots import, by name, themselves included.

    A package counts where anything in it is imported. What is imported by a computed name
    (importlib) is not found.

    Args:
        roots: names of modules.
        places: of what is followed; other imports (torch, the standard library) are not.
    """
    found: dict[str, Path] = {}
    pending = list(roots)
    while pending:
        name = pending.pop()
        path = None if name in found else _file(name, places)
        if path is None:
            continue
        found[name] = path
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        pending.append(name.rpartition(".")[0])
        for imported in read_source(path.read_bytes()).imports:
            pending += _with_parent(_absolute(imported, package))
    return dict(sorted(found.items()))


def modules_sha256(modules: Mapping[str, Path]) -> str:
    """Return one checksum of the sources of modules, wherever they lie."""
    digest = sha256()
    for name, path in modules.items():
        digest.update(f"{name} {read_source(path.read_bytes()).sha256}\n".encode())
    return digest.hexdigest()


@cache
def read_source(content: bytes) -> Source:
    """Read one file; what is no Python imports nothing, and counts as it stands."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Source(sha256(content).hexdigest(), ())
    imports = dict.fromkeys(_imports(tree))
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [each for each in body if not _is_docstring(each)]  # type: ignore[attr-defined] # every statement that holds others has it
    return Source(sha256(ast.dump(tree).encode()).hexdigest(), tuple(imports))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            dot = "." if node.module else ""
            yield from (f"{origin}{dot}{alias.name}" for alias in node.names)


def _absolute(name: str, package: str) -> str:
    """Resolve the dots in front of a name; each but the first goes up one package."""
    below = name.lstrip(".")
    dots = len(name) - len(below)
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - dots + 1], below]) if dots else name


def _with_parent(name: str) -> tuple[str, str]:
    """Return a name and what it lies in: `a.b.c` is a module, or something of the module `a.b`."""
    return name, name.rpartition(".")[0]


def _is_docstring(statement: ast.stmt) -> bool:
    """Whether a statement is a text alone: a docstring, or one below an attribute."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _file(name: str, places: Places) -> Path | None:
    top, *below = name.split(".")
    for place in places.get(top, ()):
        base = place.joinpath(*below)
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                return path
    return None
