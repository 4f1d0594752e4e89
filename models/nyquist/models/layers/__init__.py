"""Layers that make a feature map smaller, and what they are made of.

>>> import torch
>>> from nyquist.models.layers import BlurPool2d, PolyphasePool2d
>>> x = torch.zeros(1, 3, 28, 28)
>>> BlurPool2d(taps=4)(x).shape, PolyphasePool2d()(x).shape
(torch.Size([1, 3, 14, 14]), torch.Size([1, 3, 14, 14]))
"""

from nyquist.models.layers.blocks import AntialiasedConv, ConvPool, LinearBlurConv, StridedConv
from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.layers.downsampling import AntialiasedMaxPool, Downsampling
from nyquist.models.layers.polyphase import PolyphasePool2d

__all__ = [
    "AntialiasedConv",
    "AntialiasedMaxPool",
    "AntialiasedStridedConv",
    "BlurPool2d",
    "ConvPool",
    "Downsampling",
    "LinearBlurConv",
    "PolyphasePool2d",
    "PoolingDownBlock",
    "StridedConv",
    "StridedDownBlock",
]

PoolingDownBlock = ConvPool
"""As courses call convolution -> norm -> ReLU -> max pool."""
StridedDownBlock = StridedConv
"""As courses call strided convolution -> norm -> ReLU."""
AntialiasedStridedConv = AntialiasedConv
"""As courses call convolution -> blur; the blur of ours stands behind the ReLU."""
