import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.checkpoints import load_pth, load_safetensors


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self.folder,)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_tensors_come_back_from_a_state_dict_of_the_right_checksum(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(3), "b": torch.ones(2, 2)}, path)

    state = load_pth(path, sha256(path))

    assert list(state) == ["a", "b"]
    assert torch.equal(state["a"], torch.arange(3))
    assert torch.equal(state["b"], torch.ones(2, 2))


def test_a_wrong_checksum_is_refused_and_both_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(3)}, path)

    with pytest.raises(ValueError, match=r"weights\.pth") as caught:
        load_pth(path, "0" * 64)

    assert sha256(path) in str(caught.value)
    assert "0" * 64 in str(caught.value)


def test_one_changed_byte_is_a_wrong_checksum(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(3)}, path)
    expected = sha256(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(ValueError, match=expected):
        load_pth(path, expected)


def test_code_in_a_pickle_is_refused_though_its_checksum_is_right(tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.pth", tmp_path / "made by the intruder"
    torch.save({"a": Intruder(folder)}, path)

    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        load_pth(path, sha256(path))

    assert not folder.exists()
    torch.load(path, weights_only=False)  # shows that the intruder was in earnest
    assert folder.exists()


def test_a_missing_state_dict_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_pth(tmp_path / "absent.pth", "0" * 64)


def test_tensors_come_back_from_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.arange(3), "b": torch.ones(2, 2)}, path)

    state = load_safetensors(path)

    assert set(state) == {"a", "b"}
    assert torch.equal(state["a"], torch.arange(3))
    assert torch.equal(state["b"], torch.ones(2, 2))


def test_a_missing_safetensors_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_safetensors(tmp_path / "absent.safetensors")
