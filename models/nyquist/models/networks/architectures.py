"""Networks by name: `create("resnet50", downsampling="blur", num_classes=10)`.

>>> create("compact", downsampling="polyphase", in_channels=1).training
True
>>> create("compakt")
Traceback (most recent call last):
ValueError: unknown architecture 'compakt'; did you mean compact? choose from ...
"""

import importlib
from collections.abc import Callable
from functools import partial

from torch import nn

from nyquist.models.choices import BOTTLENECKS, BottleneckVersion, check_architecture
from nyquist.models.layers.downsampling import Downsampling, DownsamplingKind
from nyquist.models.layers.padding import PadMode
from nyquist.models.layers.stems import Placement
from nyquist.models.networks.compact import CompactClassifier
from nyquist.models.networks.convnext import ConvNeXt
from nyquist.models.networks.efficientnet_lite import EfficientNetLite0
from nyquist.models.networks.mobilenet import MobileNetV2
from nyquist.models.networks.resnet import RESNETS, Bottleneck, BottleneckV1, ResNet
from nyquist.models.outputs import answer_alone
from nyquist.models.spec import Option

BOTTLENECKED = tuple(name for name, (block, _) in RESNETS.items() if block is Bottleneck)


def published_downsampling(
    kind: DownsamplingKind, taps: int = 4, pad_mode: PadMode | None = None
) -> Downsampling:
    """Return a downsampling with the borders of the published networks.

    Args:
        kind: the family.
        taps: length of the blur filter; 4 is what Zhang recommends, being centred on even maps.
        pad_mode: how every border continues. None: zeros around convolutions and reflection around
            blurs, as weights were trained; circular throughout for polyphase, which needs it.
    """
    if pad_mode is None and kind != "polyphase":
        return Downsampling(kind, taps, "reflect", conv_pad_mode="zero")
    return Downsampling(kind, taps, pad_mode or "circular")


def compact(
    downsampling: DownsamplingKind = "strided",
    taps: int = 3,
    pad_mode: PadMode = "circular",
    num_classes: int = 10,
    in_channels: int = 1,
) -> nn.Module:
    """Return the compact classifier; the arguments are those of Downsampling and of the class."""
    how = Downsampling(downsampling, taps=taps, pad_mode=pad_mode)
    return CompactClassifier(how, num_classes=num_classes, in_channels=in_channels)


def resnet(
    name: str,
    downsampling: DownsamplingKind = "strided",
    taps: int = 4,
    pad_mode: PadMode | None = None,
    placement: Placement = "zhang",
    bottleneck: BottleneckVersion = "v1.5",
    num_classes: int = 1000,
    in_channels: int = 3,
) -> nn.Module:
    """Return the ResNet of this name; from 50 layers on, with bottlenecks of either version.

    Raises:
        ValueError: an argument is none of its choices.
    """
    if bottleneck not in BOTTLENECKS:
        raise ValueError(f"unknown bottleneck {bottleneck!r}; choose from {', '.join(BOTTLENECKS)}")
    block, depths = RESNETS[name]
    if bottleneck == "v1":
        if block is not Bottleneck:
            raise ValueError(f"{name} has no bottlenecks; v1 is for {', '.join(BOTTLENECKED)}")
        block = BottleneckV1
    return ResNet(
        block,
        depths,
        published_downsampling(downsampling, taps, pad_mode),
        num_classes=num_classes,
        in_channels=in_channels,
        placement=placement,
    )


def imagenet_network(
    network: Callable[..., nn.Module],
    downsampling: DownsamplingKind = "strided",
    taps: int = 4,
    pad_mode: PadMode | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
) -> nn.Module:
    """Return a network whose only choices are these."""
    how = published_downsampling(downsampling, taps, pad_mode)
    return network(downsampling=how, num_classes=num_classes, in_channels=in_channels)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "compact": compact,
    "convnext_tiny": partial(imagenet_network, ConvNeXt),
    "efficientnet_lite0": partial(imagenet_network, EfficientNetLite0),
    "mobilenet_v2": partial(imagenet_network, MobileNetV2),
    **{name: partial(resnet, name) for name in RESNETS},
}


def create(name: str, **options: Option) -> nn.Module:
    """Build a network with fresh weights, in training mode.

    Args:
        name: one of ARCHITECTURES.
        options: of the architecture, by keyword: all have downsampling, taps, pad_mode,
            num_classes and in_channels; ResNets also placement and bottleneck.

    Raises:
        ValueError: the name is unknown, or an option has a value that it may not have.
        TypeError: the architecture has no such option.
    """
    check_architecture(name)
    return ARCHITECTURES[name](**options)


def create_from_module(reference: str, **options: Option) -> nn.Module:
    """Call `module:function`, which runs that module's code, for a network.

    Raises:
        ValueError: there is no such module or function, or it returns something else.
        TypeError: the function has no such option.
    """
    module_name, _, function_name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{reference!r}: there is no module {error.name!r}; is its folder on PYTHONPATH?"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(  # noqa: TRY004 # the name is wrong, not an argument's type
            f"module {module_name!r} has no function {function_name!r}"
        )
    network = function(**options)
    if not isinstance(network, nn.Module):
        raise ValueError(  # noqa: TRY004 # what was named is wrong, not an argument's type
            f"{reference!r} returned a {type(network).__name__}, not a torch.nn.Module"
        )
    return answer_alone(network)
