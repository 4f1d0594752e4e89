"""What may be asked for by name: architectures, their options, sources of samples. Without torch.

An option that is wrong is so found before two seconds of imports and minutes of work.
"""

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal, get_args

from nyquist.models.spec import Option

DownsamplingKind = Literal["max_pool", "avg_pool", "strided", "blur", "max_blur", "polyphase"]
DOWNSAMPLING_KINDS: tuple[DownsamplingKind, ...] = get_args(DownsamplingKind)
PadMode = Literal["reflect", "replicate", "zero", "circular"]
PAD_MODES: tuple[PadMode, ...] = get_args(PadMode)
Placement = Literal["zhang", "timm"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
BottleneckVersion = Literal["v1", "v1.5"]
BOTTLENECKS: tuple[BottleneckVersion, ...] = get_args(BottleneckVersion)
MAX_TAPS = 7
SOURCES = ("fashion", "photographs", "imagenet")

Choices = tuple[str, ...] | range

_COUNT = range(1, sys.maxsize)
_COMMON: Mapping[str, Choices] = {
    "downsampling": DOWNSAMPLING_KINDS,
    "taps": range(1, MAX_TAPS + 1),
    "pad_mode": PAD_MODES,
    "num_classes": _COUNT,
    "in_channels": _COUNT,
}
_RESNET = {**_COMMON, "placement": PLACEMENTS}

ARCHITECTURES: Mapping[str, Mapping[str, Choices]] = {
    "compact": _COMMON,
    "convnext_tiny": _COMMON,
    "efficientnet_lite0": _COMMON,
    "mobilenet_v2": _COMMON,
    **{name: {**_RESNET, "bottleneck": ("v1.5",)} for name in ("resnet18", "resnet34")},
    **{
        name: {**_RESNET, "bottleneck": BOTTLENECKS}
        for name in ("resnet50", "resnet101", "resnet152")
    },
}
"""Each architecture that models.create knows, and what each of its options may be."""


def nearest(name: str, known: tuple[str, ...]) -> str:
    """Return `did you mean X? choose from X, Y, Z`, without the question if none is near."""
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}choose from {', '.join(known)}"


def check_architecture(name: str) -> None:
    """Raise ValueError, with the nearest name, if there is no such architecture."""
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; {nearest(name, tuple(ARCHITECTURES))}")


def option_problems(architecture: str, options: Mapping[str, Option]) -> dict[str, str]:
    """Say of each option of a known architecture what is wrong with it, by its name."""
    known = ARCHITECTURES[architecture]
    problems: dict[str, str] = {}
    for name, value in options.items():
        if name not in known:
            problems[name] = f"{architecture} has no option {name!r}; {nearest(name, tuple(known))}"
        elif value not in known[name]:
            problems[name] = _not_among(architecture, name, value, known[name])
    if (options.get("placement"), options.get("downsampling")) == ("timm", "polyphase"):
        problems["placement"] = "placement 'timm' strides the shortcut; polyphase needs 'zhang'"
    return problems


def _not_among(architecture: str, name: str, value: Option, choices: Choices) -> str:
    if isinstance(choices, tuple):
        return f"unknown {name} {value!r} of {architecture}; {nearest(str(value), choices)}"
    bounded = choices.stop < sys.maxsize
    span = f"in {choices[0]}..{choices[-1]}" if bounded else f"at least {choices[0]}"
    return f"{name} must be a whole number {span}, got {value!r}"
