"""Weights from files, never by running what is in them, and always by name.

file -> objects of which only tensors are made -> state dict -> names of the network -> loaded

layout                         how it is recognised                what is done
torchvision, timm's ResNets    names are ours                      nothing
adobe/antialiased-cnns         *.filt, the filters of its blurs    compared with ours, left out
efficientnet-lite0             _conv_stem.weight                   names are mapped one to one
trained, with other entries    a state dict under one of ENTRIES   averaged weights come first
wrapped: DataParallel, ...     one prefix explains every name      it is left out
"""

import builtins
import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, TypeGuard
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.serialization import safe_globals

from nyquist.models.layers.blur import BlurPool2d, blur_kernel
from nyquist.models.networks.efficientnet_lite import rename_published

NAMES_SHOWN = 10
UNREAD = "num_batches_tracked"
"""A counter that a norm of fixed momentum does not read, and old checkpoints lack."""

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema")
"""Entries of averaged weights, which timm too takes before those of the last step."""

ENTRIES = (*AVERAGED, "state_dict", "model_state_dict", "model", "params", "net")
"""Entries that hold a state dict, the first that is there first."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and trainers put in front of every name."""

State = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """Weights as a file has them.

    Attributes:
        state: tensors by their names in the file.
        notes: what was chosen and what was passed over, a sentence each, for whoever asked.
    """

    state: State
    notes: tuple[str, ...]


class Skipped:
    """Stands where a file has an object that is no tensor; nothing of the object is made."""

    kind = ""

    def __init__(self, *_arguments: object) -> None:
        """Take what the object would have been made from, and drop it."""

    def __setstate__(self, _state: object) -> None:
        """Take what the object would have held, and drop it."""


def load_checkpoint(
    network: nn.Module, path: Path | str, sha256: str = "", key: str = ""
) -> tuple[str, ...]:
    """Put the weights of a file into a network that they fit exactly.

    Args:
        network: made by models.create, of the architecture and the downsampling that the weights
            were trained with. Weights of a plain network fit its anti-aliased families too, as
            what their training starts from: without training they classify worse there.
        path: safetensors, or what torch.save wrote; see read_checkpoint.
        sha256: what the bytes of the file must have; empty for any.
        key: the entry that has the weights; empty for the first of ENTRIES.

    Returns:
        What was chosen and what was left out, a sentence each; empty if nothing was.

    Raises:
        ValueError: the file is damaged, has another checksum or holds no such weights; a weight
            is missing, unknown, of another shape or of integers; or a blur has other taps.
        FileNotFoundError: there is no such file.
    """
    found, notes = read_checkpoint(Path(path), sha256, key)
    state, told = named_for(network, found)
    filters = {name: value for name, value in state.items() if name.endswith(".filt")}
    if filters:
        check_filters(network, filters)
        state = without_filters(state)
    check_state(network, state)
    network.load_state_dict({**_counters(network), **state}, strict=True)
    return (*notes, *told)


def read_state(path: Path, sha256: str = "") -> State:
    """Read the tensors of a checkpoint; see read_checkpoint."""
    return read_checkpoint(path, sha256).state


def read_checkpoint(path: Path, sha256: str = "", key: str = "") -> Checkpoint:
    """Read a state dict, bare or as one of the entries of a file.

    Only tensors, numbers and texts are made (weights_only=True): no code is run or imported for
    the file, and a Skipped stands for every other object.

    Args:
        path: safetensors, or what torch.save wrote, whatever its suffix.
        sha256: what its bytes must have; empty for any.
        key: the entry; dots lead to entries of entries, and then to names with that prefix.

    Raises:
        ValueError: the file is damaged, has another checksum, or holds no state dict there.
        FileNotFoundError: there is no such file.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise ValueError(f"{path} has sha256 {found}, expected {sha256}")
    try:
        stored = load(content) if content[8:9] == b"{" else _unpickled(content)
        return Checkpoint(_state_at(stored, key), ()) if key else _chosen(stored)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _unpickled(content: bytes) -> Any:  # noqa: ANN401 # whatever torch.save was given
    """Return the objects of a file, with a Skipped for each that only code could make.

    Raises:
        ValueError: it is no such file, or it calls a function of Python itself or a result.
    """
    stand_ins: dict[str, type[Skipped]] = {}
    while True:
        try:
            with safe_globals([(kind, name) for name, kind in stand_ins.items()]):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            # torch's own message says how to run what is in the file after all
            named = re.search(r"GLOBAL (\S+)", str(error))
            if named is None and not stand_ins:
                raise ValueError(f"is damaged or no checkpoint: {_nature(content)}") from error
            name = named[1] if named else ", ".join(stand_ins)
            data = "." in name or isinstance(vars(builtins).get(name), type)
            full = name if "." in name else f"builtins.{name}"  # torch leaves that out
            if not named or not data or full in stand_ins or "is blocked" in str(error):
                raise ValueError(f"holds {name} beside tensors and is not read") from error
            stand_ins[full] = type("Skipped", (Skipped,), {"kind": name})
        except (RuntimeError, EOFError, KeyError, ValueError) as error:
            reason = _nature(content, error)
            raise ValueError(f"is damaged or no checkpoint: {reason}") from error


def _nature(content: bytes, error: Exception | None = None) -> str:
    """Say what a file is that is no checkpoint, else what is wrong with it."""
    save_state = "save the state_dict() of its network"
    if is_zipfile(io.BytesIO(content)):
        with ZipFile(io.BytesIO(content)) as archive:
            files = {name.partition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in files:
            return f"it is a TorchScript program; {save_state}"
        if "archive_format" in files:
            return f"it is a torch.export program; {save_state}"
    if content.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file by git lfs pull"
    if not content:
        return "it is empty"
    reason = str(error or "").split(". ")[0].partition("\n")[0]
    return reason or f"it begins with {content[:16]!r}"


def _chosen(stored: object) -> Checkpoint:
    """Return the weights of a file that nobody chose an entry of."""
    if not isinstance(stored, dict):
        raise ValueError(_no_state(stored))  # noqa: TRY004 # the file is wrong, not an argument
    if _is_state(stored):
        return Checkpoint(dict(stored), ())
    held = [key for key, value in stored.items() if _is_state(value)]
    known = [key for key in ENTRIES if key in held]
    if not known and len(held) != 1:
        raise ValueError(_no_entry(stored, held))
    key = (known or held)[0]
    notes = []
    others = [str(other) for other in held if other != key]
    if others:
        averaged = ", which are averaged" if key in AVERAGED else ""
        notes.append(
            f"took the weights of {key!r}{averaged}, not those of {_listed(others)}; "
            "--weights-key chooses"
        )
    skipped = [
        f"{name} ({value.kind})" for name, value in stored.items() if isinstance(value, Skipped)
    ]
    if skipped:
        notes.append(f"passed over {_listed(skipped)}, which only code could make")
    return Checkpoint(dict(stored[key]), tuple(notes))


def _state_at(stored: Any, key: str) -> State:  # noqa: ANN401 # whatever a file holds
    """Return the state dict that a key leads to."""
    place, rest = stored, key
    while isinstance(place, dict) and not _is_state(place):
        step = next((some for some in _steps(rest) if some in place), None)
        if step is None:
            entries = _listed([str(entry) for entry in place])
            raise ValueError(f"has no entry {rest!r}; choose from {entries}")
        place, rest = place[step], rest[len(step) + 1 :]
    if not _is_state(place):
        raise ValueError(_no_state(place, key))
    prefix = f"{rest}." if rest else ""
    state = {name.removeprefix(prefix): place[name] for name in place if name.startswith(prefix)}
    if not state:
        raise ValueError(f"has no weights whose names begin with {prefix!r}")
    return state


def _steps(key: str) -> Iterator[str]:
    """Yield a dotted key, then what is before its last dot, and so on."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _is_state(value: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _no_state(value: object, key: str = "") -> str:
    at = f" at {key!r}" if key else ""
    if isinstance(value, Skipped):
        return f"holds a {value.kind}{at}, not a state dict; save its state_dict()"
    return f"holds a {type(value).__name__}{at}, not a state dict"


def _no_entry(stored: Mapping[Any, Any], held: Collection[str]) -> str:
    if held:
        return f"has several state dicts; choose one by --weights-key: {_listed(held)}"
    place = next((stored[key] for key in ENTRIES if isinstance(stored.get(key), dict)), stored)
    strange = [
        f"{name} ({value.kind})" if isinstance(value, Skipped) else str(name)
        for name, value in place.items()
        if not isinstance(value, Tensor)
    ]
    if not strange:
        return "is empty, no state dict"
    return f"is no state dict; no tensors are {_listed(strange)}"


def named_for(network: nn.Module, state: State) -> Checkpoint:
    """Give the weights of a file the names of a network, without what all of them begin with.

    Raises:
        ValueError: several prefixes explain every name of the network.
    """
    ours = [name for name in network.state_dict() if not name.endswith(UNREAD)]
    if all(name in state for name in ours):
        return Checkpoint(state, ())
    first = max(ours, key=len, default="")
    prefixes = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
    fitting = [one for one in prefixes if all(f"{one}{name}" in state for name in ours)]
    if len(fitting) > 1:
        raise ValueError(
            f"the checkpoint has the network {len(fitting)} times, with {_listed(fitting)} in "
            "front of its names; choose one by --weights-key, without the last dot"
        )
    prefix = fitting[0] if fitting else _wrapping(state)
    found = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    left = [name for name in state if not name.startswith(prefix)]
    notes = [f"left out {prefix!r} in front of every name"] if prefix else []
    if left:
        notes.append(f"left out what is not the network's: {_listed(left)}")
    if "_conv_stem.weight" in found:
        found = rename_published(found)
    return Checkpoint(found, tuple(notes))


def _wrapping(state: State) -> str:
    """Return the WRAPPERS that every name begins with, one after the other."""
    names = [name for name in state if name != "n_averaged"]
    prefix = ""
    while names:
        more = (one for one in WRAPPERS if all(name.startswith(prefix + one) for name in names))
        one = next(more, "")
        if not one:
            break
        prefix += one
    return prefix


def check_filters(network: nn.Module, filters: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the blurs of the checkpoint are those of the network."""
    ours = {module.taps for module in network.modules() if isinstance(module, BlurPool2d)}
    for name, value in filters.items():
        taps = value.shape[-1]
        if ours != {taps}:
            found = f"taps={min(ours)}" if ours else "no blur"
            raise ValueError(
                f"{name!r} is a blur of {taps} taps, the network has {found}: "
                f'create it with downsampling="blur", taps={taps}'
            )
        if not torch.allclose(value, blur_kernel(taps).expand_as(value), atol=1e-6):
            raise ValueError(f"{name!r} is not the binomial filter of {taps} taps")


def without_filters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of adobe/antialiased-cnns the names that they have without its blurs.

    A blur at position k of a sequence, `P.k.filt`, moves what stands behind it: `P.j` becomes
    `P.(j - 1)`. Where it made a sequence of a single convolution, `conv2.1` becomes `conv2`.
    """
    blurs = [name.removesuffix(".filt").rpartition(".") for name in state if name.endswith("filt")]
    positions = {sequence: int(index) for sequence, _, index in blurs}
    weights = (item for item in state.items() if not item[0].endswith(".filt"))
    return {_without_blurs(name, positions): value for name, value in weights}


def _without_blurs(name: str, blurs: Mapping[str, int]) -> str:
    if name.startswith("classifier.0."):  # their MobileNetV2 has no dropout in front of it
        return name.replace("classifier.0.", "classifier.1.", 1)
    for sequence, position in blurs.items():
        behind = re.fullmatch(rf"{re.escape(sequence)}\.(\d+)\.(.+)", name)
        if behind and int(behind[1]) > position:
            if re.search(r"\.conv\d$", sequence):
                return f"{sequence}.{behind[2]}"
            return f"{sequence}.{int(behind[1]) - 1}.{behind[2]}"
    return name


def check_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError, with their names, if tensors do not fit.

    They do not if they are missing, unknown, of another shape, or of integers or eight bits where
    the network has floating point: those are quantised, and mean nothing without their scale.
    """
    ours = network.state_dict()
    problems: list[str] = []
    missing = [name for name in ours if name not in state and not name.endswith(UNREAD)]
    unknown = [name for name in state if name not in ours]
    if missing:
        problems.append(f"it lacks {_listed(missing)}")
    if unknown:
        problems.append(f"the network has no {_listed(unknown)}")
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in ours.items()
        if name in state and state[name].shape != value.shape
    ]
    if misshapen:
        problems.append(f"of another shape are {_listed(misshapen)}")
    quantised = [
        f"{name} ({state[name].dtype} instead of {value.dtype})"
        for name, value in ours.items()
        if name in state and value.is_floating_point() and not _is_real(state[name].dtype)
    ]
    if quantised:
        problems.append(f"quantised are {_listed(quantised)}: save it before it is quantised")
    if problems:
        raise ValueError(f"the checkpoint is not of this network: {'; '.join(problems)}")


def _is_real(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize > 1


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:NAMES_SHOWN])
    rest = len(names) - NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def _counters(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if name.endswith(UNREAD)}
