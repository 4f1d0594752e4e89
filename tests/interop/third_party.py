"""Networks of timm, torchvision and Hugging Face, each a function without arguments.

Their packages are in the environment third-party alone. PyPI's torchvision is compiled for PyPI's
torch; beside one of another build its operators are missing and it cannot be imported, though no
classifier needs one: those it names in Python are declared here, and none can be called.
"""

import sys
from pathlib import Path

import torch
from torch import nn

OPERATORS = (
    "nms",
    "qnms",
    "roi_align",
    "qroi_align",
    "_roi_align_backward",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "deform_conv2d",
    "_deform_conv2d_backward",
)
_declared = torch.library.Library("torchvision", "FRAGMENT")
for operator in OPERATORS:
    _declared.define(f"{operator}(Tensor x) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402
import transformers  # noqa: E402


def resnet50() -> nn.Module:
    return timm.create_model("resnet50")


def vit_tiny_patch16_224() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224")


def convnext_atto() -> nn.Module:
    return timm.create_model("convnext_atto")


def mobilenetv3_small_100() -> nn.Module:
    return timm.create_model("mobilenetv3_small_100")


def efficientnet_b0() -> nn.Module:
    return timm.create_model("efficientnet_b0")


def swin_tiny_patch4_window7_224() -> nn.Module:
    return timm.create_model("swin_tiny_patch4_window7_224")


def densenet121() -> nn.Module:
    return torchvision.models.densenet121()


def squeezenet1_1() -> nn.Module:
    return torchvision.models.squeezenet1_1()


def regnet_y_400mf() -> nn.Module:
    return torchvision.models.regnet_y_400mf()


def hf_resnet() -> nn.Module:
    """Two stages of one block each, 10 classes; gives a ModelOutput."""
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 32],
            depths=[1, 1],
            layer_type="basic",
            num_labels=10,
        )
    )


def hf_vit() -> nn.Module:
    """Two layers of 64 channels, 10 classes; gives a ModelOutput."""
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            num_labels=10,
        )
    )


def save(name: str, file: Path) -> None:
    """Write a network of this module as a program with a dynamic batch, as docs/export.md says."""
    torch.manual_seed(0)
    program = torch.export.export(
        globals()[name]().eval(),
        (torch.zeros(2, 3, 224, 224),),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
    )
    torch.export.save(program, file)


if __name__ == "__main__":
    save(sys.argv[1], Path(sys.argv[2]))
