"""What is analysed: a model of the zoo with its pictures, an architecture, anyone's network."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.analysis.command_line import DEFAULT_SIZE
from nyquist.models.loading import load_network
from nyquist.models.networks.architectures import create, create_from_module
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.programs import read_program
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
        name: of a model of the zoo; of an architecture or module:function, which then has seeded
            fresh weights; or a file of torch.export.save, FILE.pt2.
        downsampling: of an architecture; its own default if not given.
        count: most pictures.
        size: height and width of an architecture's pictures; others have their own, where they are
            settled.

    Raises:
        OSError: the file cannot be read.
        ValueError: the name is none of these, or a model of the zoo is asked for another
            downsampling.
    """
    zoo = specs()
    if name in zoo and downsampling is None:
        return _zoo_subject(zoo[name].plain, count)
    if name.endswith(".pt2"):
        return _program_subject(Path(name), count, size)
    options = {} if downsampling is None else {"downsampling": downsampling}
    torch.manual_seed(0)
    try:
        build = create_from_module if ":" in name else create
        network = build(name, **options).eval()
    except ValueError as error:
        if ":" in name:
            raise
        raise ValueError(f"{error}; or a model of the zoo: {', '.join(zoo)}") from error
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    return AnalysedNetwork(name, network, _photographs(first.in_channels, (size, size))[:count])


def _program_subject(path: Path, count: int, size: int) -> AnalysedNetwork:
    network = read_program(path.read_bytes(), path.name)
    channels, height, width = network.picture
    pictures = _photographs(channels or 3, (height or size, width or size))
    return AnalysedNetwork(path.stem, network, pictures[:count])


def _zoo_subject(spec: ModelSpec, count: int) -> AnalysedNetwork:
    prepare = PreprocessedNetwork(nn.Identity(), spec.preprocessing)
    pictures = read_samples(spec, spec.samples).spread(count).images
    return AnalysedNetwork(spec.name, load_network(spec), prepare(pictures))


def _photographs(channels: int, size: tuple[int, int]) -> Tensor:
    """Return the photographs, 0..1: in colour, or of their grey in as many channels as asked."""
    images = photograph_samples().images.permute(0, 3, 1, 2).float() / 255  # (5, 3, 224, 224)
    if channels != 3:
        images = images.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)
