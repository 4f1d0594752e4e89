"""nyquist diff NAME 1 2: what changed between two versions of a model. Without torch.

manifests, weights, graphs, labels -> changes, by topic -> table or JSON
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError
from safetensors.numpy import load

from nyquist.export.command_line import make_diff_parser
from nyquist.server.artifact.layout import complete_versions
from nyquist.server.artifact.manifest import (
    LABELS_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    Manifest,
    read_manifest,
)
from nyquist.server.wire.errors import ArtifactError

SAME, DIFFERENT, CANNOT_TELL = 0, 1, 2
NAMES_SHOWN = 10
WIDTH = 80


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was.

    Attributes:
        topic: weights, graph, labels, preprocessing, limits, figures or origin.
        what: name of the value.
        old: what it was; empty if it is new.
        new: what it is; empty if it is gone.
        by: the difference, where both are numbers; of tensors, the largest of an element.
    """

    topic: str
    what: str
    old: str
    new: str
    by: float | None = None


@dataclass(frozen=True)
class Version:
    """One version of a model, read whole.

    Attributes:
        manifest: of it.
        weights: by name.
        graph: its nodes.
        graph_bytes: size of its file.
        labels: of its classes.
    """

    manifest: Manifest
    weights: Mapping[str, NDArray[Any]]
    graph: onnx.GraphProto
    graph_bytes: int
    labels: tuple[str, ...]


def read_version(folder: Path, number: int) -> Version:
    """Read one version of the model in `folder`, each file once it fits its checksum.

    Raises:
        ArtifactError: there is no such version, or it is damaged.
    """
    if not folder.is_dir():
        raise ArtifactError(f"there is no model {folder.name!r} in {folder.parent}")
    versions = complete_versions(folder)
    if number not in versions:
        listed = ", ".join(map(str, versions)) or "none"
        raise ArtifactError(f"{folder.name!r} has no version {number}; it has {listed}")
    manifest = read_manifest(folder, number)

    def content(file: str) -> bytes:
        return manifest.read_file(folder, f"{number}/{file}")

    model = content(MODEL_FILE)
    ours = f"{number}/{REFERENCE_FILE}" in manifest.files
    try:
        graph = onnx.load_from_string(model).graph
        return Version(
            manifest,
            load(content(REFERENCE_FILE)) if ours else _initializers(graph),
            graph,
            len(model),
            tuple(content(LABELS_FILE).decode().splitlines()),
        )
    except (SafetensorError, DecodeError, UnicodeDecodeError, KeyError) as error:
        raise ArtifactError(
            f"version {number} of {folder.name!r} cannot be read: {error}"
        ) from error


def _initializers(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Return the weights of a graph, by name: a program is not read without torch."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def compare(old: Version, new: Version) -> list[Change]:
    """Return all that differs between two versions of a model, topic by topic."""
    return [
        *_weights(old.weights, new.weights),
        *_values("graph", _graph(old), _graph(new)),
        *_labels(old.labels, new.labels),
        *_values("preprocessing", _preprocessing(old.manifest), _preprocessing(new.manifest)),
        *_values("limits", vars(old.manifest.tolerances), vars(new.manifest.tolerances)),
        *_values("figures", vars(old.manifest.figures), vars(new.manifest.figures)),
        *_values("origin", _origin(old.manifest), _origin(new.manifest)),
    ]


def _weights(old: Mapping[str, NDArray[Any]], new: Mapping[str, NDArray[Any]]) -> Iterator[Change]:
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before is None or after is None or before.shape != after.shape:
            yield Change("weights", name, _shape(before), _shape(after))
        elif before.tobytes() != after.tobytes() or before.dtype != after.dtype:
            largest = float(np.abs(after.astype(np.float64) - before).max())
            yield Change("weights", name, _shape(before), _shape(after), largest)


def _shape(tensor: NDArray[Any] | None) -> str:
    return "" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def _graph(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    operators = Counter(node.op_type for node in version.graph.node)
    tensors = {
        f"tensor {tensor.name}": f"{tensor.datatype} {list(tensor.shape)}{_bounds(tensor.bounds)}"
        for tensor in (manifest.input, *manifest.outputs)
    }
    return {
        "architecture": manifest.architecture.name,
        **{f"option {name}": value for name, value in manifest.architecture.options.items()},
        "precision": manifest.precision,
        "recipe": manifest.recipe or None,
        "opset": manifest.opset,
        **tensors,
        **{f"operators {name}": operators[name] for name in sorted(operators)},
        "bytes": version.graph_bytes,
    }


def _bounds(bounds: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    least, most = bounds
    return "" if least == most else f", {list(least)} to {list(most)}"


def _labels(old: Sequence[str], new: Sequence[str]) -> Iterator[Change]:
    before, after = (dict(enumerate(labels)) for labels in (old, new))
    yield from _values("labels", _named(before), _named(after))


def _named(labels: Mapping[int, str]) -> dict[str, str]:
    return {f"class {index}": label for index, label in labels.items()}


def _preprocessing(manifest: Manifest) -> dict[str, Any]:
    return {**manifest.preprocessing.model_dump(), **asdict(manifest.picture)}


def _origin(manifest: Manifest) -> dict[str, Any]:
    origin = manifest.origin
    return {
        **_flags(origin.command),
        "checkpoint": origin.weights_sha256,
        "inputs": origin.inputs_sha256,
        **origin.built_with,
    }


def _flags(command: Sequence[str]) -> dict[str, str]:
    """Return the values of each flag of a command."""
    values: dict[str, list[str]] = {}
    flag = ""
    for word in command:
        if word.startswith("--"):
            flag = word
        values.setdefault(flag, []).extend([] if word == flag else [word])
    return {flag: " ".join(words) or "given" for flag, words in values.items()}


def _values(topic: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for what in dict.fromkeys((*old, *new)):
        before, after = old.get(what), new.get(what)
        if before != after:
            numbers = [value for value in (before, after) if isinstance(value, int | float)]
            by = float(numbers[1] - numbers[0]) if len(numbers) == 2 else None
            yield Change(topic, what, _written(before), _written(after), by)


def _written(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table(changes: Sequence[Change]) -> Table:
    """Lay changes out, a line each; of many tensors those that changed the most."""
    laid = Table("what", "old", "new", "by", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in laid.columns[:3]:
        column.overflow = "fold"
    laid.columns[3].justify = "right"
    topic = ""
    for change in _shown(changes):
        if change.topic != topic:
            topic = change.topic
            laid.add_row(Text(topic, style="bold"))
        by = "" if change.by is None else f"{change.by:+.3g}"
        row = (f"  {change.what}", _short(change.old), _short(change.new), by)
        laid.add_row(*map(Text, row))
    return laid


def _shown(changes: Sequence[Change]) -> list[Change]:
    tensors = [change for change in changes if change.topic == "weights"]
    tensors.sort(key=lambda change: inf if change.by is None else change.by, reverse=True)
    rest = changes[len(tensors) :]
    if len(tensors) <= NAMES_SHOWN:
        return [*tensors, *rest]
    more = Change("weights", f"and {len(tensors) - NAMES_SHOWN} more", "", "")
    return [*tensors[:NAMES_SHOWN], more, *rest]


def _short(text: str) -> str:
    digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"{text[:12]}..." if digest else text or "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nyquist diff`; return the exit status."""
    return run(make_diff_parser().parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Compare what the options name; return the exit status."""
    try:
        folder = options.output / options.name
        versions = [read_version(folder, number) for number in (options.old, options.new)]
    except ArtifactError as error:
        sys.stderr.write(f"error: {error}\n")
        return CANNOT_TELL
    changes = compare(*versions)
    _show(changes, options)
    return DIFFERENT if changes else SAME


def _show(changes: Sequence[Change], options: argparse.Namespace) -> None:
    if options.json:
        document = {
            "name": options.name,
            "old": options.old,
            "new": options.new,
            "changes": [asdict(change) for change in changes],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    title = f"{options.name}: version {options.old} -> {options.new}"
    console.print(title if changes else f"{title}: nothing changed")
    if changes:
        console.print(table(changes))
