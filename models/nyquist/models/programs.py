"""Networks as programs of torch.export: saved whole, and run without the code that made them.

file -> what could run code is refused -> torch.export.load -> is it a classifier? -> ProgramNetwork
"""

import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree  # torch.export's own registry, where classes have names

from nyquist.models.outputs import answer_alone

MAX_BATCH = 1024
SAVE = (
    'torch.export.export(net.eval(), (pictures,), dynamic_shapes=({0: torch.export.Dim("batch", '
    "min=1, max=64)},))"
)

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)?|torch\.sym_\w+|math\.\w+|_operator\."
    r"(abs|add|and_|eq|floordiv|ge|getitem|gt|le|lt|mod|mul|ne|neg|not_|or_|pos|pow|sub|truediv)"
)
_EXPRESSION = re.compile(
    r"(?>[suz]\d+|\d+(\.\d+)?|Symbol\('[suz]\d+'|Float\('[\d.e+-]+'|[a-z]+=(True|False|\d+)|True|False|"
    r"Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|IntTrueDiv|"
    r"FloatTrueDiv|ToFloat|PowByNatural|Equality|Unequality|(Strict)?(Less|Greater)Than|And|Or|Not|"
    r"ceiling|floor|int_oo|oo|[-+*/%(), <>=!&|~])*+"
)
"""Sizes of a program; torch hands them to sympy, which evaluates them as Python."""

_UNKNOWN_CLASS = re.compile(r"Deserializing ([\w.]+) in pytree is not registered")
"""What torch says of an answer whose class it does not know."""


class ProgramNetwork(nn.Module):
    """A program that takes float32 (B, C, H, W) and gives what it gave where it was exported.

    It has no training mode: what its layers did was settled there.

    Attributes:
        picture: channels, height and width that it takes; None where any will do.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        (given,) = program.graph_signature.user_inputs
        (node,) = (node for node in program.graph.nodes if node.name == given)
        sizes = node.meta["val"].shape[1:]
        self.picture = tuple(size if isinstance(size, int) else None for size in sizes)
        self.program = program.module(check_guards=False)  # guards are Python that a file brings
        for module in self.modules():
            module.training = False

    def forward(self, image: Tensor) -> Any:  # noqa: ANN401 # whatever the program gives
        return self.program(image)

    def train(self, mode: bool = True) -> "ProgramNetwork":  # noqa: ARG002, FBT001, FBT002 # torch's
        """Stay as it is."""
        return self


def read_program(content: bytes, name: str) -> ProgramNetwork:
    """Return the network of a file of torch.export.save, having run no code of it.

    Of what such a file may hold, pickled objects, compiled libraries, expressions that are no sizes
    and operators of other libraries than torch are refused before torch reads it.

    Args:
        content: of the file.
        name: for messages.

    Raises:
        ValueError: it is none, holds more than a program needs, was saved by a torch that this one
            cannot read, or has a fixed batch or several inputs, or stayed in training mode.
    """
    saved_by = _check_archive(content, name)
    program, reason = _load(content)
    while program is None and (unknown := _UNKNOWN_CLASS.search(reason)):
        _stand_in(unknown[1])
        program, reason = _load(content)
    if program is None:
        raise ValueError(
            f"{name} was saved by torch {saved_by}, which torch {torch.__version__} cannot read: "
            f"{reason}"
        )
    _check_program(program, name)
    return answer_alone(ProgramNetwork(program))


def _load(content: bytes) -> tuple[ExportedProgram | None, str]:
    """Return the program, or None and torch's first reason on one line."""
    reasons: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        reasons.extend([str(error)] if error else [])
        return False

    logger = logging.getLogger("torch.export")
    logger.addFilter(keep)
    try:
        return torch.export.load(io.BytesIO(content)), ""
    except Exception as error:  # noqa: BLE001 # of another version torch raises anything
        reasons.append(str(error) or type(error).__name__)
        return None, reasons[0].strip().partition("\n")[0]
    finally:
        logger.removeFilter(keep)


def _stand_in(name: str) -> None:
    """Let answers of a class that is not here, such as ModelOutput, come as dicts of its fields."""
    pytree.register_pytree_node(
        type(name.rpartition(".")[2], (dict,), {}),
        lambda answer: (list(answer.values()), list(answer)),
        lambda values, fields: dict(zip(fields, values, strict=True)),
        serialized_type_name=name,
    )


def write_program(
    network: nn.Module, pictures: Tensor, spans: Mapping[int, tuple[int, int]] | None = None
) -> bytes:
    """Return a network as such a file. Same network, same bytes, wherever its code lies.

    Args:
        network: in evaluation mode; takes float32 (B, C, H, W).
        pictures: two or more; any batch up to MAX_BATCH will do.
        spans: other axes that are open, with their least and greatest size.
    """
    axes = {0: Dim("batch", min=1, max=MAX_BATCH)}
    axes |= {
        axis: Dim(f"axis{axis}", min=low, max=high) for axis, (low, high) in (spans or {}).items()
    }
    program = torch.export.export(network, (pictures,), dynamic_shapes=(axes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of whoever built it
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def _check_archive(content: bytes, name: str) -> str:
    """Return the torch that saved a file. Raises ValueError if it holds more than a program."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        files = {path.partition("/")[2]: path for path in archive.namelist()}
        model = json.loads(archive.read(files["models/model.json"]))
        tables = {
            kind: json.loads(archive.read(files[f"data/{kind}/model_{kind}_config.json"]))["config"]
            for kind in ("weights", "constants")
        }
        examples = archive.read(files["data/sample_inputs/model.pt"])
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{name} is no file of torch.export.save (torch 2.8 or newer)") from error
    found = [path for path in files if path.startswith("data/aotinductor/")]
    found += [path for path in files if path.startswith("models/") and path != "models/model.json"]
    found += [
        f"the pickled {key!r}"
        for table in tables.values()
        for key, entry in table.items()
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"])
    ]
    found += dict.fromkeys(_foreign(model))
    try:
        torch.load(io.BytesIO(examples), weights_only=True)
    except Exception:  # noqa: BLE001 # whatever a damaged or hostile file makes of it
        found.append("example inputs that are no tensors")
    if found:
        raise ValueError(
            f"{name} holds {', '.join(found[:3])}, which a network of torch's own operators and "
            "plain tensors does not need and which could run code: it is not loaded"
        )
    return str(model.get("torch_version") or "of an unknown version")


def _foreign(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a program names that could be code: operators, sizes, containers."""
    for key, text in _texts(model):
        if key == "target" and not _OPERATOR.fullmatch(text):
            yield f"the operator {text!r}"
        if key in ("expr_str", "range_constraints") and not _EXPRESSION.fullmatch(text):
            yield f"the size {text!r}"
        if key in ("in_spec", "out_spec") and "default_factory_module" in text:
            yield "a container with a factory"


def _texts(part: Any, key: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 # any JSON
    """Yield every text with the key that it stands under, keys themselves included."""
    if isinstance(part, str):
        yield key, part
    elif isinstance(part, list):
        for value in part:
            yield from _texts(value, key)
    elif isinstance(part, dict):
        for name, value in part.items():
            yield key, name
            yield from _texts(value, name)


def _check_program(program: ExportedProgram, name: str) -> None:
    """Raise ValueError for what could not be served."""
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes}
    if len(inputs) != 1 or not isinstance(inputs[0], str):
        raise ValueError(f"{name} takes {len(inputs)} inputs; a classifier takes one, pictures")
    shape = nodes[inputs[0]].meta["val"].shape
    if len(shape) != 4:
        raise ValueError(f"{name} takes {tuple(shape)}; a classifier takes (batch, C, H, W)")
    if isinstance(shape[0], int):
        raise ValueError(f"{name} has a fixed batch of {shape[0]}: export it with {SAVE}")  # noqa: TRY004 # a value
    trained = [node.name for node in program.graph.nodes if _in_training(node)]
    if trained:
        raise ValueError(
            f"{name} was exported in training mode ({', '.join(trained[:3])}): its answers would "
            f"depend on the batch; export it with {SAVE}"
        )


def _in_training(node: torch.fx.Node) -> bool:
    place = {"aten.batch_norm.default": 5, "aten.dropout.default": 2}.get(str(node.target))
    return place is not None and bool(node.args[place])
