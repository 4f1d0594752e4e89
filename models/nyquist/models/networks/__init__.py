"""Architectures, each with any of the six ways of downsampling.

>>> from nyquist.models.networks import create
>>> network = create("resnet18", downsampling="blur", num_classes=10)
>>> network.fc.out_features
10
"""

from nyquist.models.networks.architectures import create

__all__ = ["create"]
