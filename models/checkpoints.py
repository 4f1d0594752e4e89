"""Weights from files, never by unpickling objects."""

import hashlib
import io
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises FileNotFoundError, naming the file."""
    return load_file(path)


def load_pth(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a state dict that torch.save wrote, if its bytes are those expected.

    Only tensors are unpickled (weights_only=True).

    Raises:
        ValueError: the checksum differs.
        FileNotFoundError: there is no such file.
        pickle.UnpicklingError: it holds something other than tensors.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} has sha256 {found}, expected {sha256}")
    state: dict[str, Tensor] = torch.load(
        io.BytesIO(content), map_location="cpu", weights_only=True
    )
    return state
