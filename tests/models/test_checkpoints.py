import argparse
import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import antialiased_cnns
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nyquist.models import create
from nyquist.models.checkpoints import load_checkpoint, read_checkpoint, read_state
from nyquist.models.layers.blur import blur_kernel
from nyquist.models.zoo import LITE0_FILE, LITE0_PACKAGE


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

    state = read_state(path, sha256(path))

    assert list(state) == ["a", "b"]
    assert torch.equal(state["a"], torch.arange(3))
    assert torch.equal(state["b"], torch.ones(2, 2))


def test_a_wrong_checksum_is_refused_and_both_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(3)}, path)

    with pytest.raises(ValueError, match=r"weights\.pth") as caught:
        read_state(path, "0" * 64)

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
        read_state(path, expected)


def test_code_in_a_pickle_is_refused_though_its_checksum_is_right(tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.pth", tmp_path / "made by the intruder"
    torch.save({"a": Intruder(folder)}, path)

    with pytest.raises(
        ValueError, match=r"holds .*(Path|mkdir|getattr|system)\S* beside tensors and is not read"
    ):
        read_state(path, sha256(path))

    assert not folder.exists()
    torch.load(path, weights_only=False)  # shows that the intruder was in earnest
    assert folder.exists()


def test_a_missing_state_dict_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_state(tmp_path / "absent.pth", "0" * 64)


def test_tensors_come_back_from_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.arange(3), "b": torch.ones(2, 2)}, path)

    state = read_state(path)

    assert set(state) == {"a", "b"}
    assert torch.equal(state["a"], torch.arange(3))
    assert torch.equal(state["b"], torch.ones(2, 2))


def test_a_missing_safetensors_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        read_state(tmp_path / "absent.safetensors")


State = dict[str, Tensor]


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[object], Path]:
    """Write what torch.save can write and return its path."""

    def save(content: object) -> Path:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        return path

    return save


def fresh(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create("compact", downsampling="blur")


def same(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have the same weights under the same names."""
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: dict(reversed(state.items())),
        lambda state: {name: state[name] for name in state if "num_batches" not in name},
        lambda state: {"state_dict": state, "epoch": 90, "arch": "compact"},
        lambda state: {"model": state, "epoch": 1, "args": {"lr": 0.1}},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
        lambda state: {"model_ema": state},
        lambda state: {"params": state},
        lambda state: {"net": state},
        lambda state: {"generator_of_answers": state, "epoch": 1},
        lambda state: {name: value.double() for name, value in state.items()},
    ],
    ids=[
        *("bare", "reordered", "without counters", "state_dict", "model", "model_state_dict"),
        *("model_ema alone", "params", "net", "the only one", "double"),
    ],
)
def test_a_checkpoint_is_read_however_it_is_wrapped(
    wrap: Callable[[State], object], saved: Callable[[object], Path]
) -> None:
    trained, network = fresh(1), fresh(2)

    notes = load_checkpoint(network, saved(wrap(trained.state_dict())))

    assert same(network, trained)
    assert notes == ()


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."),
        *("backbone.", "ema.module."),
    ],
)
def test_a_prefix_that_explains_every_name_is_left_out_and_told(
    prefix: str, saved: Callable[[object], Path]
) -> None:
    trained, network = fresh(1), fresh(2)

    notes = load_checkpoint(network, saved({"state_dict": under(prefix, trained.state_dict())}))

    assert same(network, trained)
    assert notes == (f"left out {prefix!r} in front of every name",)


def test_what_lies_beside_the_prefix_is_left_out_and_told(
    saved: Callable[[object], Path],
) -> None:
    trained, network = fresh(1), fresh(2)
    state = under("net.", trained.state_dict())

    notes = load_checkpoint(network, saved({**state, "criterion.weight": torch.ones(10)}))

    assert same(network, trained)
    assert notes[1:] == ("left out what is not the network's: criterion.weight",)


def test_an_averaged_model_is_read_without_its_count(saved: Callable[[object], Path]) -> None:
    trained, network = fresh(1), fresh(2)

    notes = load_checkpoint(network, saved(AveragedModel(trained).state_dict()))

    assert same(network, trained)
    assert notes[1:] == ("left out what is not the network's: n_averaged",)


def test_a_network_whose_own_names_begin_like_a_wrapper_keeps_them(
    saved: Callable[[object], Path],
) -> None:
    trained, network = nn.ModuleDict({"model": fresh(1)}), nn.ModuleDict({"model": fresh(2)})

    assert load_checkpoint(network, saved(trained.state_dict())) == ()

    assert same(network, trained)


def test_a_network_that_is_there_twice_is_chosen_by_its_prefix(
    saved: Callable[[object], Path],
) -> None:
    trained, network = fresh(1), fresh(2)
    teacher = under("teacher.", fresh(3).state_dict())
    path = saved({"state_dict": under("student.", trained.state_dict()) | teacher})

    with pytest.raises(ValueError, match=r"network 2 times, with student\., teacher\. in front"):
        load_checkpoint(network, path)
    load_checkpoint(network, path, key="state_dict.student")

    assert same(network, trained)


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema"])
def test_averaged_weights_come_before_the_last_unless_a_key_says_otherwise(
    averaged: str, saved: Callable[[object], Path]
) -> None:
    trained, mean, network = fresh(1), fresh(3), fresh(2)
    path = saved({"state_dict": trained.state_dict(), averaged: mean.state_dict(), "epoch": 1})

    (note,) = load_checkpoint(network, path)
    assert same(network, mean)
    assert note == (
        f"took the weights of {averaged!r}, which are averaged, not those of state_dict; "
        "--weights-key chooses"
    )

    assert load_checkpoint(network, path, key="state_dict") == ()
    assert same(network, trained)


def test_a_key_leads_through_dots_and_a_wrong_one_is_told_the_right_ones(
    saved: Callable[[object], Path],
) -> None:
    trained, network = fresh(1), fresh(2)
    path = saved({"ema": {"decay": 0.9, "module": trained.state_dict()}, "epoch": 1})

    load_checkpoint(network, path, key="ema.module")
    assert same(network, trained)

    with pytest.raises(ValueError, match=r"has no entry 'emma'; choose from ema, epoch$"):
        load_checkpoint(network, path, key="emma")
    with pytest.raises(ValueError, match=r"holds a int at 'epoch', not a state dict"):
        load_checkpoint(network, path, key="epoch")
    with pytest.raises(ValueError, match=r"has no weights whose names begin with 'head\.'"):
        load_checkpoint(network, path, key="ema.module.head")


def test_several_unknown_state_dicts_are_named_and_none_is_guessed(
    saved: Callable[[object], Path],
) -> None:
    state = fresh(1).state_dict()

    with pytest.raises(ValueError, match=r"choose one by --weights-key: left, right$"):
        load_checkpoint(fresh(2), saved({"left": state, "right": state}))


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({"args": argparse.Namespace(lr=0.1)}, "args (argparse.Namespace)"),
        ({"best": np.float64(0.9)}, "best (numpy._core.multiarray.scalar)"),
        ({"at": Path("runs/1")}, "at (pathlib.PosixPath)"),
        ({"seen": range(3)}, "seen (range)"),
    ],
)
def test_objects_beside_the_weights_are_passed_over_and_told(
    beside: dict[str, object], told: str, saved: Callable[[object], Path]
) -> None:
    trained, network = fresh(1), fresh(2)

    notes = load_checkpoint(network, saved({"state_dict": trained.state_dict(), **beside}))

    assert same(network, trained)
    assert notes == (f"passed over {told}, which only code could make",)


class Eager:
    """Makes a folder as soon as anything makes it."""

    folder: Path

    def __new__(cls, folder: Path) -> "Eager":
        folder.mkdir()
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[Path]:
        return (self.folder,)


def test_no_code_runs_for_what_is_passed_over(
    tmp_path: Path, saved: Callable[[object], Path]
) -> None:
    trained, network, folder = fresh(1), fresh(2), tmp_path / "made"
    eager = Eager(folder)
    eager.folder = folder
    path = saved({"state_dict": trained.state_dict(), "hook": eager})
    folder.rmdir()

    load_checkpoint(network, path)

    assert same(network, trained)
    assert not folder.exists()
    torch.load(path, weights_only=False)  # shows that it was in earnest
    assert folder.exists()


class Call:
    """Calls a function of Python when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, ("1 + 1",)


def test_a_function_of_python_beside_the_weights_is_refused(
    saved: Callable[[object], Path],
) -> None:
    path = saved({"state_dict": fresh(1).state_dict(), "hook": Call()})

    with pytest.raises(ValueError, match="holds eval beside tensors and is not read"):
        load_checkpoint(fresh(2), path)


def test_what_is_passed_over_in_one_file_is_not_trusted_in_the_next(
    saved: Callable[[object], Path],
) -> None:
    path = saved({"state_dict": fresh(1).state_dict(), "args": argparse.Namespace(lr=0.1)})
    trusted = set(torch.serialization.get_safe_globals())

    load_checkpoint(fresh(2), path)

    assert set(torch.serialization.get_safe_globals()) == trusted


def test_a_whole_network_is_refused_and_told_what_to_save(
    saved: Callable[[object], Path],
) -> None:
    kind = r"nyquist\.models\.networks\.compact\.CompactClassifier"
    with pytest.raises(
        ValueError, match=rf"holds a {kind}, not a state dict; save its state_dict\(\)$"
    ):
        load_checkpoint(fresh(2), saved(fresh(1)))
    with pytest.raises(ValueError, match=rf"no tensors are model \({kind}\)"):
        load_checkpoint(fresh(2), saved({"model": fresh(1)}))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_by_name(
    dtype: torch.dtype, saved: Callable[[object], Path]
) -> None:
    state = fresh(1).state_dict()
    state["classifier.weight"] = state["classifier.weight"].to(dtype)
    network = fresh(2)

    with pytest.raises(
        ValueError, match=rf"quantised are classifier\.weight \({dtype} instead of torch\.float32\)"
    ):
        load_checkpoint(network, saved(state))

    assert same(network, fresh(2))


def test_safetensors_are_known_by_their_bytes(tmp_path: Path) -> None:
    trained, network = fresh(1), fresh(2)
    save_file(trained.state_dict(), tmp_path / "pytorch_model.bin")

    load_checkpoint(network, tmp_path / "pytorch_model.bin")

    assert same(network, trained)


def test_programs_and_pointers_are_told_for_what_they_are(tmp_path: Path) -> None:
    network, path = nn.Sequential(nn.Linear(2, 2)).eval(), tmp_path / "weights.pt"
    torch.export.save(torch.export.export(network, (torch.ones(1, 2),)), path)
    with pytest.raises(ValueError, match=r"torch\.export program; save the state_dict\(\)"):
        read_checkpoint(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(ValueError, match="pointer of Git LFS"):
        read_checkpoint(path)
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match="it begins with b'<!DOCTYPE html>'"):
        read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint: it is empty"):
        read_checkpoint(path)


def test_a_checkpoint_is_read_from_safetensors(tmp_path: Path) -> None:
    trained, network = fresh(1), fresh(2)
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")

    load_checkpoint(network, str(tmp_path / "weights.safetensors"))

    assert same(network, trained)


def test_the_published_weights_of_efficientnet_are_read() -> None:
    network = create("efficientnet_lite0")

    load_checkpoint(network, Path(str(files(LITE0_PACKAGE).joinpath(LITE0_FILE))))

    published = torch.load(str(files(LITE0_PACKAGE).joinpath(LITE0_FILE)), weights_only=True)
    assert torch.equal(network.state_dict()["classifier.bias"], published["_fc.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.bias": None}, "it lacks classifier.bias"),
        ({"extra.weight": torch.ones(1)}, "the network has no extra.weight"),
        (
            {"stages.0.0.weight": torch.ones(16, 3, 3, 3)},
            r"stages.0.0.weight \(16, 3, 3, 3\) instead of \(16, 1, 3, 3\)",
        ),
        (
            {"stages.0.1.bias": None, "stages.0.9.bias": torch.ones(16)},
            "it lacks stages.0.1.bias; the network has no stages.0.9.bias",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name_and_changes_nothing(
    change: dict[str, Tensor | None], message: str, saved: Callable[[object], Path]
) -> None:
    state = {**fresh(1).state_dict(), **change}
    network = fresh(2)

    with pytest.raises(ValueError, match=message):
        load_checkpoint(
            network, saved({name: value for name, value in state.items() if value is not None})
        )

    assert same(network, fresh(2))


def test_of_many_wrong_names_ten_are_shown(saved: Callable[[object], Path]) -> None:
    with pytest.raises(ValueError, match=r"the network has no w0, .*, w9 and 15 more$"):
        load_checkpoint(
            fresh(1),
            saved({**fresh(1).state_dict(), **{f"w{n}": torch.ones(1) for n in range(25)}}),
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list, not a state dict"),
        ({}, "is empty, no state dict"),
        ({"state_dict": {"a": torch.ones(1), "b": 3}}, "no tensors are b$"),
        ({"epoch": 3, "best": 0.7}, "no tensors are epoch, best"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(
    content: object, message: str, saved: Callable[[object], Path]
) -> None:
    with pytest.raises(ValueError, match=message):
        load_checkpoint(fresh(1), saved(content))


def test_code_in_a_checkpoint_is_refused(tmp_path: Path, saved: Callable[[object], Path]) -> None:
    path = saved({"state_dict": {"a": Intruder(tmp_path / "made by the intruder")}})

    with pytest.raises(
        ValueError, match=r"holds .*(Path|mkdir|getattr|system)\S* beside tensors and is not read"
    ):
        load_checkpoint(fresh(1), path)

    assert not (tmp_path / "made by the intruder").exists()


def antialiased(name: str, taps: int) -> nn.Module:
    """Return the network of antialiased-cnns with norms that are no identities."""
    torch.manual_seed(0)
    network: nn.Module = getattr(antialiased_cnns, name)(pretrained=False, filter_size=taps)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type] # a buffer
    return network.eval()


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("resnet18", 2),
        ("resnet18", 3),
        ("resnet18", 4),
        ("resnet18", 5),
        ("resnet50", 4),
        ("mobilenet_v2", 2),
        ("mobilenet_v2", 5),
    ],
)
@torch.inference_mode()
def test_weights_of_antialiased_cnns_give_the_logits_that_they_give_there(
    name: str, taps: int, saved: Callable[[object], Path]
) -> None:
    theirs = antialiased(name, taps)
    path = saved({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}})
    x = torch.randn(2, 3, 96, 66, generator=torch.Generator().manual_seed(1))

    ours = create(name, downsampling="blur", taps=taps, weights=path).eval()

    expected = theirs(x)
    assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_filters_of_other_taps_are_refused(saved: Callable[[object], Path]) -> None:
    path = saved(antialiased("mobilenet_v2", 4).state_dict())

    with pytest.raises(ValueError, match=r"of 4 taps, the network has taps=3: .*taps=4"):
        create("mobilenet_v2", downsampling="blur", taps=3, weights=path)
    with pytest.raises(ValueError, match=r"of 4 taps, the network has no blur"):
        create("mobilenet_v2", weights=path)


def test_a_filter_that_is_not_binomial_is_refused(saved: Callable[[object], Path]) -> None:
    state = antialiased("mobilenet_v2", 4).state_dict()
    state["features.4.conv.2.filt"] = blur_kernel(4).roll(1, 1).expand(144, 1, 4, 4).clone()

    with pytest.raises(ValueError, match=r"'features\.4\.conv\.2\.filt' is not the binomial"):
        create("mobilenet_v2", downsampling="blur", taps=4, weights=saved(state))


def test_weights_of_another_architecture_are_refused(saved: Callable[[object], Path]) -> None:
    path = saved(antialiased("resnet18", 4).state_dict())

    with pytest.raises(ValueError, match=r"it lacks layer1\.2\.conv1\.weight.* and \d+ more"):
        create("resnet34", downsampling="blur", weights=path)


def test_a_file_that_was_cut_short_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(300)}, path)
    path.write_bytes(path.read_bytes()[:600])

    with pytest.raises(ValueError, match=r"weights\.pth is damaged or no checkpoint: .{1,120}$"):
        read_state(path)
