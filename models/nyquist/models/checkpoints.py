"""Weights from files, never by unpickling objects, and always by name.

file -> state dict -> names of our networks -> compared with the network -> loaded

layout                       how it is recognised                  what is done
torchvision, timm's ResNets  names are ours                        nothing
adobe/antialiased-cnns       *.filt, the filters of its blurs      compared with ours, left out
efficientnet-lite0           _conv_stem.weight                     names are mapped one to one
trained in parallel          every name begins with module.        that is left out
"""

import hashlib
import io
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from nyquist.models.layers.blur import BlurPool2d, blur_kernel
from nyquist.models.networks.efficientnet_lite import rename_published

NAMES_SHOWN = 10
UNREAD = "num_batches_tracked"
"""A counter that a norm of fixed momentum does not read, and old checkpoints lack."""


def load_checkpoint(network: nn.Module, path: Path | str, sha256: str = "") -> None:
    """Put the weights of a file into a network that they fit exactly.

    Args:
        network: made by models.create, of the architecture and the downsampling that the weights
            were trained with. Weights of a plain network fit its anti-aliased families too, as
            what their training starts from: without training they classify worse there.
        path: safetensors, or what torch.save wrote: a state dict, bare or in `state_dict`.
        sha256: what the bytes of the file must have; empty for any.

    Raises:
        ValueError: the file is damaged, has another checksum or holds more than tensors; a weight
            is missing, unknown or of another shape; or a blur has other taps.
        FileNotFoundError: there is no such file.
    """
    state = without_prefix(read_state(Path(path), sha256))
    if "_conv_stem.weight" in state:
        state = rename_published(state)
    filters = {name: value for name, value in state.items() if name.endswith(".filt")}
    if filters:
        check_filters(network, filters)
        state = without_filters(state)
    check_state(network, state)
    network.load_state_dict({**_counters(network), **state}, strict=True)


def read_state(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Read a state dict, bare or under `state_dict` among other entries.

    Only tensors are unpickled (weights_only=True): no code of the file is run.

    Raises:
        ValueError: the file is damaged, has another checksum, or holds no state dict.
        FileNotFoundError: there is no such file.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise ValueError(f"{path} has sha256 {found}, expected {sha256}")
    try:
        if path.suffix == ".safetensors":
            return load(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message says how to run what is in the file after all
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = named[1] if named else "something else"
        raise ValueError(f"{path} holds {what} beside tensors and is not read") from error
    except (SafetensorError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).split(". ")[0]
        raise ValueError(f"{path} is damaged or no checkpoint: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")  # noqa: TRY004 # the file is wrong, not an argument
    strange = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"{path} is no state dict; no tensors are {_listed(strange)}")
    return dict(state)


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the `module.` that torch.nn.DataParallel puts in front of every name."""
    if not all(name.startswith("module.") for name in state):
        return dict(state)
    return {name.removeprefix("module."): value for name, value in state.items()}


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
    """Raise ValueError, with their names, if tensors are missing, unknown or of another shape."""
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
    if problems:
        raise ValueError(f"the checkpoint is not of this network: {'; '.join(problems)}")


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:NAMES_SHOWN])
    rest = len(names) - NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def _counters(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if name.endswith(UNREAD)}
