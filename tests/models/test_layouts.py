"""Layouts of torchvision and timm, as tests/interop/state_dict_layouts.py writes them."""

import json
from pathlib import Path

import pytest
import torch

from nyquist import models
from nyquist.models.checkpoints import check_state

LAYOUTS = sorted((Path(__file__).parent / "layouts").glob("*.json"))


def test_there_is_a_layout_of_every_network_that_both_have() -> None:
    assert [path.stem for path in LAYOUTS] == [
        "timm_resnet50",
        "timm_resnetaa50",
        "timm_resnetblur50",
        "torchvision_convnext_tiny",
        "torchvision_mobilenet_v2",
        "torchvision_resnet101",
        "torchvision_resnet152",
        "torchvision_resnet18",
        "torchvision_resnet34",
        "torchvision_resnet50",
    ]


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_a_state_dict_of_theirs_fits_our_network(path: Path) -> None:
    layout = json.loads(path.read_text())
    with torch.device("meta"):
        network = models.create(layout["name"], **layout["options"])
        state = {name: torch.empty(shape) for name, shape in layout["state"].items()}

    check_state(network, state)

    with pytest.raises(ValueError, match=r"the network has no classifier\.9\.weight"):
        check_state(network, {**state, "classifier.9.weight": torch.empty(1)})


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_no_weight_of_theirs_may_be_missing(path: Path) -> None:
    layout = json.loads(path.read_text())
    with torch.device("meta"):
        network = models.create(layout["name"], **layout["options"])
        state = {name: torch.empty(shape) for name, shape in layout["state"].items()}
    name = next(name for name in state if name.endswith("bias"))
    del state[name]

    with pytest.raises(ValueError, match=f"it lacks {name}$"):
        check_state(network, state)
