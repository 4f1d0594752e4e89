"""What is analysed: a model of the zoo with its pictures, an architecture, anyone's network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.analysis.command_line import DEFAULT_SIZE
from nyquist.models.choices import ARCHITECTURES, nearest, option_problems
from nyquist.models.loading import load_network
from nyquist.models.networks.architectures import create, create_from_module
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.programs import read_program
from nyquist.models.samples import photograph_samples, read_samples
from nyquist.models.spec import ModelSpec, Option
from nyquist.models.zoo import specs


@dataclass(frozen=True)
class AnalysedNetwork:
    """A network and pictures for it.

    Attributes:
        name: as asked for, with the downsampling and other options that it was built with; may
            stand in the name of a file.
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
    name: str,
    options: Mapping[str, Option] = MappingProxyType({}),
    count: int = 16,
    size: int = DEFAULT_SIZE,
) -> AnalysedNetwork:
    """Build what is analysed.

    Args:
        name: of a model of the zoo; of an architecture or module:function, which then has seeded
            fresh weights; or a file of torch.export.save, FILE.pt2.
        options: of an architecture or of the function; their own defaults if not given.
        count: most pictures.
        size: height and width of an architecture's pictures; others have their own, where they are
            settled.

    Raises:
        OSError: the file cannot be read.
        ValueError: the name is none of these, or options are given for what is built already.
    """
    zoo = specs()
    if options and (name in zoo or name.endswith((".pt2", ".onnx"))):
        raise ValueError(_settled(name, zoo.get(name), options))
    if name in zoo:
        return _zoo_subject(zoo[name].plain, count)
    if name.endswith(".pt2"):
        return _program_subject(Path(name), count, size)
    network = _fresh(name, options, tuple(zoo)).eval()
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    channels = next((first.in_channels for first in convolutions), 3)
    pictures = photographs(channels, (size, size))[:count]
    built = "_".join((name.replace(":", "."), *map(_in_a_name, options.items())))
    return AnalysedNetwork(built, network, pictures)


def _fresh(name: str, options: Mapping[str, Option], zoo: Sequence[str]) -> nn.Module:
    """Build an architecture, or what a function returns, with weights of a fixed seed."""
    if ":" not in name and name not in ARCHITECTURES:
        problem = f"unknown architecture {name!r}; {nearest(name, tuple(ARCHITECTURES))}"
        raise ValueError(f"{problem}; or a model of the zoo: {', '.join(zoo)}")
    problems = option_problems(name, options) if name in ARCHITECTURES else {}
    if problems:
        raise ValueError("; ".join(problems.values()))
    torch.manual_seed(0)
    try:
        return (create_from_module if ":" in name else create)(name, **options)
    except TypeError as error:
        raise ValueError(f"{name} takes no {', '.join(options)}: {error}") from error


def _settled(name: str, spec: ModelSpec | None, options: Mapping[str, Option]) -> str:
    """Say why options do not apply to a model that is built, and what they apply to."""
    given = ", ".join(f"{key}={value}" for key, value in options.items())
    if spec is None:
        return f"{name} is built already and takes no {given}"
    has = ", ".join(f"{key}={value}" for key, value in spec.options.items())
    return (
        f"{name} is a model of the zoo, {spec.architecture} with {has or 'its defaults'} and its "
        f"weights; {given} can be had of the architecture: nyquist analyse {spec.architecture}"
    )


def _in_a_name(option: tuple[str, Option]) -> str:
    key, value = option
    return str(value) if key == "downsampling" else f"{key}_{value}"


def _program_subject(path: Path, count: int, size: int) -> AnalysedNetwork:
    network = read_program(path.read_bytes(), path.name)
    channels, height, width = network.picture
    pictures = photographs(channels or 3, (height or size, width or size))
    return AnalysedNetwork(path.stem, network, pictures[:count])


def _zoo_subject(spec: ModelSpec, count: int) -> AnalysedNetwork:
    prepare = PreprocessedNetwork(nn.Identity(), spec.preprocessing)
    pictures = read_samples(spec, spec.samples).spread(count).images
    return AnalysedNetwork(spec.name, load_network(spec), prepare(pictures))


def photographs(channels: int, size: tuple[int, int]) -> Tensor:
    """Return the photographs, 0..1: in colour, or of their grey in as many channels as asked."""
    images = photograph_samples().images.permute(0, 3, 1, 2).float() / 255  # (5, 3, 224, 224)
    if channels != 3:
        images = images.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)
