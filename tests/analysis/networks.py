"""Networks whose receptive fields are published, thin so that they are quick to trace.

The layers are those of torchvision (ResNet v1.5), of He et al. (v1: the stride is in the first 1x1)
and of Simonyan and Zisserman (VGG16); widths do not matter to a field.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nyquist.models.analysis.layer_graph import GraphBuilder, Layer, LayerGraph
from nyquist.models.analysis.window import Window
from nyquist.models.layers.blur import BlurPool2d

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@dataclass(frozen=True)
class Style:
    """Where a block strides (1 or 2 of its convolutions), and how: taps of a blur, 0 for none."""

    strided_conv: int = 2
    taps: int = 0


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """A block of torchvision: in-place ReLU, `out += identity`."""

    def __init__(
        self, inputs: int, kernels: Sequence[int], width: int, stride: int, style: Style
    ) -> None:
        super().__init__()
        outputs = width * (4 if len(kernels) == 3 else 1)
        blurs = style.taps > 0 and stride > 1
        strides = [1] * len(kernels)
        if not blurs:
            strides[style.strided_conv - 1 if len(kernels) == 3 else 0] = stride
        channels = [inputs, *[width] * (len(kernels) - 1), outputs]
        self.convs = nn.ModuleList(
            conv_norm(a, b, k, s)
            for a, b, k, s in zip(channels, channels[1:], kernels, strides, strict=False)
        )
        self.blur = BlurPool2d(style.taps, stride) if blurs else nn.Identity()
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            shortcut = conv_norm(inputs, outputs, 1, 1 if blurs else stride)
            self.downsample = nn.Sequential(self.blur, shortcut)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = x
        for conv in self.convs[:-1]:
            out = self.relu(conv(out))
        out = self.convs[-1](self.blur(out))
        out += identity
        return self.relu(out)


def resnet(depth: int, style: Style | None = None, width: int = 2) -> nn.Sequential:
    """Return a ResNet; logits (B, 10)."""
    style = style or Style()
    kernels = (3, 3) if depth < 50 else (1, 3, 1)
    pool: nn.Module = nn.MaxPool2d(3, 2, 1)
    if style.taps:
        pool = nn.Sequential(nn.MaxPool2d(2, 1), BlurPool2d(style.taps, 2))
    stem = nn.Sequential(conv_norm(3, width, 7, 2), nn.ReLU(inplace=True), pool)
    layers, inputs = nn.Sequential(), width
    for number, repeats in enumerate(DEPTHS[depth]):
        inner = width * 2**number
        for repeat in range(repeats):
            stride = 2 if repeat == 0 and number > 0 else 1
            block = Residual(inputs, kernels, inner, stride, style)
            layers.add_module(f"{number}_{repeat}", block)
            inputs = inner * (4 if len(kernels) == 3 else 1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))
    return nn.Sequential(stem, layers, head)


def vgg16() -> nn.Module:
    """Return the convolutions and pools of VGG16, and its head on a global mean."""
    layers: list[nn.Module] = []
    inputs = 3
    for repeats in (2, 2, 3, 3, 3):
        for _ in range(repeats):
            layers += [nn.Conv2d(inputs, 4, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = 4
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def resnet_graph(depth: int, style: Style | None = None) -> LayerGraph:
    """Return the windows of a ResNet without the network, for a square picture of 224 pixels."""
    style = style or Style()
    builder = GraphBuilder((1, 1, 224, 224), 2, 3)

    def read(source: int, kernel: int, stride: int = 1, before: int | None = None) -> int:
        window = Window(kernel, stride, kernel // 2 if before is None else before)
        size = -(-builder.node(source).grid[0] // stride)
        layer = Layer("conv", "conv", (1, 1, size, size))
        return builder.window(layer, source, {2: window, 3: window})

    def halve(source: int) -> int:
        return read(source, style.taps, 2, (style.taps - 1) // 2)

    def block(source: int, stride: int) -> int:
        blurs = style.taps > 0 and stride > 1
        kernels = (3, 3) if depth < 50 else (1, 3, 1)
        strided = 0 if depth < 50 else style.strided_conv - 1
        shortcut = halve(source) if blurs else read(source, 1, stride)
        branch = source
        for at, kernel in enumerate(kernels):
            if blurs and at == len(kernels) - 1:
                branch = halve(branch)
            branch = read(branch, kernel, stride if at == strided and not blurs else 1)
        layer = Layer("add", "add", builder.node(branch).layer.shape)
        return builder.merge(layer, (shortcut, branch))

    at = read(0, 7, 2)
    at = halve(read(at, 2, 1, 0)) if style.taps else read(at, 3, 2)
    for number, repeats in enumerate(DEPTHS[depth]):
        for repeat in range(repeats):
            at = block(at, 2 if repeat == 0 and number > 0 else 1)
    return builder.build()


class Gated(nn.Module):
    """A convolution whose channels are gated by a pooled copy of itself (squeeze-and-excite)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.gate(x.mean(dim=(2, 3), keepdim=True)))


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
