"""The command line of a build: what it says before, and what it says when something is wrong."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from nyquist.export.build import main
from nyquist.export.errors import GateMissed
from nyquist.export.failures import file_reason, reasons
from nyquist.models.loading import load_network, network_with_notes
from nyquist.models.networks.architectures import create
from nyquist.models.spec import ModelSpec
from nyquist.models.zoo import specs

OWN = ("--arch", "compact", "--name", "products", "--input", "1x32x32")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder of a person."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--only", "fashion_blur", "--dry-run"]) == 0
    assert capsys.readouterr().out.split()[-3:] == ["fashion_blur", "build", "new"]
    assert not list(desk.iterdir())


def test_a_dry_run_knows_what_is_as_it_should_be(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--only", "fashion_blur", "--dry-run", "--json", "--output", str(repository)]
    assert main([*command, "--precision", "fp32,int8"]) == 0
    document = json.loads(capsys.readouterr().out)
    plans = {**dict.fromkeys(document["unchanged"], "unchanged"), **document["build"]}
    assert plans["fashion_blur"] in ("unchanged", "inputs changed")
    assert plans["fashion_blur_int8"] in ("unchanged", "inputs changed", "new")


def test_all_that_is_wrong_with_the_arguments_is_exit_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*OWN, "--weights", "my.pth", "--mean", "0.1,0.2"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --mean: has 2 values, input 1x32x32 takes 1",
        "error: --weights: there is no file my.pth",
    ]


def test_help_says_what_each_exit_status_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for status in ("0    every model is built", "1    a model failed", "2    the arguments", "130"):
        assert status in text


def test_a_full_disk_is_told_with_the_folder_and_the_space_that_is_free(desk: Path) -> None:
    with pytest.raises(OSError, match="No space") as error:
        Path("/dev/full").write_text("x")
    assert error.value.errno == errno.ENOSPC
    reason = file_reason(error.value, desk / "not made yet")
    assert reason.startswith(f"no space is left in {desk / 'not made yet'}, ")
    assert reason.endswith(" MB are free; make room")


def test_a_folder_that_may_not_be_written_is_named(desk: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/srv/models/.lock")
    reason = file_reason(error, desk)
    assert reason == (
        f"/srv/models/.lock may not be read or written by user {os.geteuid()}: Permission denied"
    )


def test_every_cause_of_a_failure_is_a_line_of_its_own(desk: Path) -> None:
    group = ExceptionGroup("two", [ValueError("the checkpoint lacks a"), KeyError("b")])
    assert reasons(group, desk) == ["the checkpoint lacks a", "KeyError: 'b'"]


def test_what_nyquist_refuses_is_told_in_its_words_alone(desk: Path) -> None:
    missed = ExceptionGroup("one", [GateMissed("accuracy 0.7, at least 0.8 is required")])
    assert reasons(missed, desk) == ["accuracy 0.7, at least 0.8 is required"]


def test_notes_and_failures_are_told_as_they_come_before_the_last_model_is_built(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = create("compact", num_classes=3).state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state}, "good.pth")
    torch.save({"state_dict": state}, "short.pth")
    (desk / "two.yaml").write_text(
        "defaults: {arch: compact, input: 1x32x32, options: {num_classes: 3}}\n"
        "models:\n"
        "  - {name: lost, weights: short.pth, weights_key: model}\n"
        "  - {name: kept, weights: good.pth}\n"
    )
    assert main(["--config", "two.yaml", "--output", "repository", "--jobs", "1"]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    why = "short.pth has no entry 'model'; choose from state_dict"
    note = (
        "kept: took the weights of 'state_dict_ema', which are averaged, not those of state_dict; "
        "--weights-key chooses"
    )
    assert lines.index(f"lost: not published: {why}") < lines.index(note)
    assert lines.index(note) < lines.index("timing the models side by side")
    assert why in lines  # and once more at the end, where it is looked for


def spec(weights: Path | None = None, labels: tuple[str, ...] = ()) -> ModelSpec:
    return ModelSpec(
        name="products",
        architecture="compact",
        options={"num_classes": 3},
        weights=weights,
        labels=labels,
        samples="photographs",
        input=(1, 32, 32),
    )


def saved(network: nn.Module, without: str = "") -> Path:
    state = network.state_dict()
    state.pop(without, None)
    torch.save(state, "my.pth")
    return Path("my.pth")


def test_labels_that_do_not_fit_the_classes_are_refused() -> None:
    assert load_network(spec(labels=("cat", "dog", "bird")))
    with pytest.raises(ValueError, match="there are 2 labels, and logits of 3 classes"):
        load_network(spec(labels=("cat", "dog")))


def test_a_label_that_several_classes_have_is_told() -> None:
    _, notes = network_with_notes(spec(labels=("crane", "dog", "crane")))
    assert notes == ("'crane' is the label of classes 0, 2",)


def test_a_checkpoint_that_lacks_a_weight_or_has_another_shape_is_told_by_its_names() -> None:
    with pytest.raises(ValueError, match=r"it lacks classifier\.bias"):
        load_network(spec(saved(create("compact", num_classes=3), without="classifier.bias")))
    with pytest.raises(ValueError, match=r"classifier\.weight \(4, 96\) instead of \(3, 96\)"):
        load_network(spec(saved(create("compact", num_classes=4))))


def test_a_checkpoint_that_is_cut_short_is_named() -> None:
    path = saved(create("compact", num_classes=3))
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(ValueError, match=r"my\.pth is damaged or no checkpoint"):
        load_network(spec(path))


class Trap:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("sprung").absolute(),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run() -> None:
    torch.save({"state_dict": {"classifier.bias": Trap()}}, "my.pth")
    with pytest.raises(ValueError, match=r"my\.pth holds getattr beside tensors and is not read"):
        load_network(spec(Path("my.pth")))
    assert not Path("sprung").exists()


def test_a_network_that_takes_other_pictures_or_gives_no_logits_is_refused(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "own_networks.py").write_text(
        "from torch import nn\n"
        "def colour(): return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())\n"
        "def maps(): return nn.Conv2d(1, 2, 3)\n"
        "def text(): return 'resnet'\n"
        "class Restless(nn.BatchNorm2d):\n"
        "    def train(self, mode=True): return super().train(True)\n"
        "def restless(): return nn.Sequential(Restless(1), nn.Flatten(), nn.Linear(1024, 2))\n"
    )
    monkeypatch.syspath_prepend(desk)
    for function, message in (
        ("colour", r"does not take pictures \(2, 1, 32, 32\)"),
        ("maps", r"must give logits \(batch, classes\), it gave \(2, 2, 30, 30\)"),
        ("restless", "stays in training mode after eval\\(\\): 0; its answers"),
        ("text", "returned a str, not a torch.nn.Module"),
        ("missing", "has no function 'missing'"),
    ):
        own = ModelSpec(
            **{**vars(spec()), "architecture": f"own_networks:{function}", "options": {}}
        )
        with pytest.raises(ValueError, match=message):
            load_network(own)


def test_the_zoo_fits_its_labels() -> None:
    assert load_network(specs()["fashion_strided"])
