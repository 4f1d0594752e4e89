"""What is analysed: a model of the zoo with its weights and pictures, or a bare architecture."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.analysis.command_line import DEFAULT_SIZE
from nyquist.models.loading import load_network
from nyquist.models.networks.architectures import create
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import photograph_samples, read_samples
from nyquist.models.spec import ModelSpec
from nyquist.models.zoo import specs


@dataclass(frozen=True)
class AnalysedNetwork:
    """A network and pictures for it.

    Attributes:
        name: as asked for.
        network: in evaluation mode.
        pictures: real ones as the network takes them, float32 (B, C, H, W).
    """

    name: str
    network: nn.Module
    pictures: Tensor

    def noise(self, count: int, seed: int = 0) -> Tensor:
        """Return Gaussian noise with the mean and deviation of the pictures. (count, C, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(count, *self.pictures.shape[1:], generator=generator)
        return values * self.pictures.std() + self.pictures.mean()


def load_subject(
    name: str, downsampling: str | None = None, count: int = 16, size: int = DEFAULT_SIZE
) -> AnalysedNetwork:
    """Build what is analysed.

    Args:
        name: of a model of the zoo, or of an architecture, which then has seeded fresh weights.
        downsampling: of an architecture; its own default if not given.
        count: most pictures.
        size: height and width of an architecture's pictures; the zoo's have their own.

    Raises:
        ValueError: the name is neither, or a model of the zoo is asked for another downsampling.
    """
    zoo = specs()
    if name in zoo and downsampling is None:
        return _zoo_subject(zoo[name], count)
    options = {} if downsampling is None else {"downsampling": downsampling}
    torch.manual_seed(0)
    try:
        network = create(name, **options).eval()
    except ValueError as error:
        raise ValueError(f"{error}; or a model of the zoo: {', '.join(zoo)}") from error
    return AnalysedNetwork(name, network, _photographs(network, size)[:count])


def _zoo_subject(spec: ModelSpec, count: int) -> AnalysedNetwork:
    prepare = PreprocessedNetwork(nn.Identity(), spec.preprocessing)
    pictures = read_samples(spec, spec.samples).spread(count).images
    return AnalysedNetwork(spec.name, load_network(spec), prepare(pictures))


def _photographs(network: nn.Module, size: int) -> Tensor:
    """Return the colour photographs, 0..1, with as many channels as the first convolution takes."""
    images = photograph_samples().images.permute(0, 3, 1, 2).float() / 255  # (5, 3, 224, 224)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    if first.in_channels == 1:
        images = images.mean(dim=1, keepdim=True)
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
