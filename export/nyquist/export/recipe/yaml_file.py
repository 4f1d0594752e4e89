"""Recipes in a YAML file: many models, what they share, and the line of each mistake.

text -> nodes, which know their lines -> fields of each entry, over the defaults -> specs

models:              a list of entries, each with the fields of nyquist.export.recipe.recipe.Recipe
defaults:            fields that every entry has unless it says otherwise
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nyquist.export.recipe.recipe import Problem, RecipeError, read_recipe
from nyquist.models.choices import nearest
from nyquist.models.spec import ModelSpec

PARTS = ("models", "defaults")
DEEPEST = 3
"""Places that are looked at below an entry: `options.taps`, `sizes.0.1`."""

Place = tuple[str | int, ...]
Located = tuple[int, str]


def read_recipes(path: Path) -> list[ModelSpec]:
    """Return the models that a file asks for, in its order; paths in it begin beside it.

    Raises:
        RecipeError: the file cannot be read or is not as it should be; all that is wrong with it,
            each with its line.
    """
    root = _compose(path)
    parts = {key.value: value for key, value in root.value}
    problems = [*_repeated(root), *_misplaced(root)]
    specs: list[ModelSpec] = []
    try:
        shared = _fields(parts["defaults"]) if "defaults" in parts else {}
        places = _lines(parts.get("defaults"))
        taken: dict[str, int] = {}
        for entry in _entries(parts.get("models")):
            own = {**places, (): _line(entry), **_lines(entry)}
            found, wrong = read_recipe(_merged(shared, _fields(entry)), path.parent)
            problems += [_located(problem, own) for problem in wrong]
            for spec in found:
                line = own.get(("name",), own[()])
                if spec.name in taken:
                    other = taken[spec.name]
                    problems.append((line, f"name: {spec.name!r} is also the name of line {other}"))
                taken.setdefault(spec.name, line)
            specs += found
    except yaml.MarkedYAMLError as error:
        problems.append((_line_of(error), str(error.problem)))
    if problems:
        raise RecipeError(f"{path}:{line}: {message}" for line, message in sorted(problems))
    return specs


def _compose(path: Path) -> yaml.MappingNode:
    """Return the file as nodes, which know their lines."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            [f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"]
        ) from error
    except yaml.MarkedYAMLError as error:
        raise RecipeError([f"{path}:{_line_of(error)}: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise RecipeError([f"{path} is no YAML: {error}"]) from error
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError([f"{path}:1: the file must have models: a list of them"])
    return root


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _line_of(error: yaml.MarkedYAMLError) -> int:
    return error.problem_mark.line + 1 if error.problem_mark else 1


def _entries(models: yaml.Node | None) -> list[yaml.Node]:
    """Return the entries. Raises MarkedYAMLError if there are none."""
    if not isinstance(models, yaml.SequenceNode) or not models.value:
        mark = None if models is None else models.start_mark
        raise yaml.MarkedYAMLError(
            problem="models must be a list of one or more", problem_mark=mark
        )
    return models.value


def _fields(node: yaml.Node) -> dict[str, Any]:
    """Return a mapping of plain values. Raises MarkedYAMLError if it is none."""
    if not isinstance(node, yaml.MappingNode):
        message = "must be fields and their values, such as arch: resnet50"
        raise yaml.MarkedYAMLError(problem=message, problem_mark=node.start_mark)
    fields = yaml.constructor.SafeConstructor().construct_document(node)
    return {str(key): value for key, value in fields.items()}


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay an entry's fields over the shared ones, and its options over the shared options."""
    merged = {**shared, **own}
    options = [fields.get("options") for fields in (shared, own)]
    if all(isinstance(some, dict) for some in options):
        merged["options"] = {**shared["options"], **own["options"]}
    return merged


def _lines(node: yaml.Node | None, place: Place = ()) -> dict[Place, int]:
    """Return the line of each key and item, by its place below a node."""
    lines: dict[Place, int] = {}
    if len(place) == DEEPEST:
        return lines
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[*place, str(key.value)] = _line(key)
            lines |= _lines(value, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*place, index] = _line(item)
            lines |= _lines(item, (*place, index))
    return lines


def _located(problem: Problem, lines: Mapping[Place, int]) -> Located:
    """Return a problem with the line of its place, or of the nearest around it that has one."""
    places = (problem.place[:end] for end in range(len(problem.place), -1, -1))
    line = next(lines[place] for place in places if place in lines)
    return line, f"{'.'.join(map(str, problem.place))}: {problem.message}"


def _misplaced(root: yaml.MappingNode) -> Iterator[Located]:
    for key, _ in root.value:
        if key.value not in PARTS:
            yield _line(key), f"there is no part {key.value!r}; {nearest(str(key.value), PARTS)}"


def _repeated(node: yaml.Node, depth: int = 0) -> Iterator[Located]:
    """Yield the keys that one mapping has twice, of which YAML would drop the first."""
    below = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        below = [value for _, value in node.value]
        first: dict[str, int] = {}
        for key, _ in node.value:
            if str(key.value) in first:
                yield _line(key), f"{key.value} is also in line {first[str(key.value)]}"
            first.setdefault(str(key.value), _line(key))
    if depth < DEEPEST:
        for item in below:
            yield from _repeated(item, depth + 1)
