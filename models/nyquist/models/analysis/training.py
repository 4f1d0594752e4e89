"""What is said of training with pools and strides, tried in small on Fashion-MNIST.

photographs -> networks that differ in how they halve -> accuracy, loss, gradients -> mean, interval

One run trains the networks of one experiment from one seed; runs that a file has already are not
repeated, so that an interrupted command goes on where it was.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models import fashion
from nyquist.models.layers.blocks import downsampling_block
from nyquist.models.layers.blur import blur_kernel
from nyquist.models.layers.downsampling import Downsampling, DownsamplingKind
from nyquist.models.loading import settle_statistics

WIDTHS = (16, 32, 64)
SIZE = 32
COMPARED: tuple[DownsamplingKind, ...] = ("max_pool", "avg_pool", "strided", "blur")
PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-2
TEST_BATCH = 250
CURVE_POINTS = 30
SAMPLE_TRAIN = 40
MOST_TESTED = 2000
STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""97.5 % quantiles of Student's t, by degrees of freedom from 1 on."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How each network is trained.

    Attributes:
        images: photographs drawn from the training split.
        epochs: passes over them.
        batch: photographs a step.

    Raises:
        ValueError: an epoch would have fewer than four steps.
    """

    images: int = 3200
    epochs: int = 3
    batch: int = 64

    def __post_init__(self) -> None:
        if self.images < 4 * self.batch or self.epochs < 1:
            raise ValueError(
                f"at least {4 * self.batch} images and 1 epoch are needed, "
                f"got {self.images} and {self.epochs}"
            )

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.epochs * (self.images // self.batch)


@dataclass(frozen=True)
class TrainingData:
    """Photographs to train on and others to be tested on.

    Attributes:
        train: uint8 (N, 28, 28) with labels.
        test: likewise.
        name: what they are, for the table.
    """

    train: fashion.Photographs
    test: fashion.Photographs
    name: str


@dataclass(frozen=True)
class Outcome:
    """What the training of one network gave.

    Attributes:
        experiment: one of EXPERIMENTS.
        variant: which of its networks.
        seed: of the weights, the photographs, their order and their places.
        figures: by name.
        curve: mean loss of equal parts of the training, nats; empty where it is of no interest.
    """

    experiment: str
    variant: str
    seed: int
    figures: Mapping[str, float]
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Interval:
    """Mean over seeds and the half width of its 95 % interval (Student's t); nan for one seed."""

    mean: float
    half_width: float


def load_data(directory: Path | None) -> TrainingData:
    """Return Fashion-MNIST from a folder of IDX files, or the committed sample where it is None.

    Of the test split the first 2,000 are tested. The sample has 50 photographs of each class: 40
    are trained on, 10 are tested.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: a file is damaged.
    """
    if directory is not None:
        train, test = (fashion.load_split(directory, split) for split in ("train", "t10k"))
        tested = fashion.Photographs(test.images[:MOST_TESTED], test.labels[:MOST_TESTED])
        return TrainingData(train, tested, "Fashion-MNIST")
    whole = fashion.load_sample()
    shown = F.one_hot(whole.labels, len(fashion.LABELS))
    order = (shown.cumsum(0) * shown).sum(1)  # of each photograph within its class, from 1 on
    parts = (order <= SAMPLE_TRAIN, order > SAMPLE_TRAIN)
    train, test = (fashion.Photographs(whole.images[part], whole.labels[part]) for part in parts)
    return TrainingData(train, test, "sample of Fashion-MNIST")


def run_experiments(
    names: Sequence[str],
    data: TrainingData,
    recipe: TrainingRecipe,
    seeds: int,
    file: Path,
    on_run: Callable[[str], None] = lambda _name: None,
) -> Iterator[Outcome]:
    """Run experiments seed by seed; those that the file has are read, others are appended to it.

    Args:
        names: of EXPERIMENTS.
        data: to train on and to be tested on.
        recipe: of every network.
        seeds: how many, from 0 on.
        file: JSON lines, one a run; what was made by another recipe or from other data stays there
            and is not read.
        on_run: called with the experiment after each run.

    Raises:
        ValueError: there are fewer photographs than the recipe asks for, or no such experiment.
    """
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(f"unknown experiment {unknown[0]!r}; choose from {', '.join(EXPERIMENTS)}")
    if len(data.train.labels) < recipe.images:
        has = len(data.train.labels)
        raise ValueError(f"{recipe.images} images are asked for, the {data.name} has {has}")
    made = {"data": data.name, **asdict(recipe)}
    known = _read(file, made)
    for seed in range(seeds):
        for name in names:
            outcomes = known.get((name, seed))
            if outcomes is None:
                outcomes = list(EXPERIMENTS[name](data, recipe, seed))
                _append(file, {**made, "outcomes": [asdict(outcome) for outcome in outcomes]})
            on_run(name)
            yield from outcomes


def interval(values: Sequence[float]) -> Interval:
    """Return the mean over seeds and its 95 % interval."""
    count = len(values)
    if count < 2:
        return Interval(fmean(values), math.nan)
    freedom = count - 1
    quantile = STUDENT_T[freedom - 1] if freedom <= len(STUDENT_T) else 1.96 + 2.7 / freedom
    return Interval(fmean(values), quantile * stdev(values) / count**0.5)


def convergence(data: TrainingData, recipe: TrainingRecipe, seed: int) -> Iterator[Outcome]:
    """Train one network for each way to halve: how fast the loss falls, and where it ends."""
    for kind in COMPARED:
        network = staged(seed, _halving(kind))
        losses = fit(network, data.train, recipe, seed)
        quarter = len(losses) // 4
        figures = {
            "loss, 1st quarter": fmean(losses[:quarter]),
            "loss, 4th": fmean(losses[-quarter:]),
            "accuracy": accuracy(network, data.test),
        }
        yield Outcome("convergence", kind, seed, figures, _curve(losses))


def depth(data: TrainingData, recipe: TrainingRecipe, seed: int) -> Iterator[Outcome]:
    """Train shallow and deep networks: how steady the gradient of the first convolution is.

    spread: standard deviation of its norm over the steps, of its mean, after the first tenth;
    first / last: mean norm of the first convolution's gradient over that of the last.
    """
    for kind in COMPARED:
        for extra in (0, 2):
            network = staged(seed, _halving(kind, extra))
            convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
            ends = (convolutions[0].weight, convolutions[-1].weight)
            norms: list[list[float]] = []

            def watch(ends: Sequence[Tensor] = ends, norms: list[list[float]] = norms) -> None:
                norms.append([float(part.grad.norm()) for part in ends if part.grad is not None])

            fit(network, data.train, recipe, seed, watch)
            first, last = zip(*norms[len(norms) // 10 :], strict=True)
            figures = {
                "spread": stdev(first) / fmean(first),
                "first / last": fmean(first) / fmean(last),
                "accuracy": accuracy(network, data.test),
            }
            yield Outcome("depth", f"{kind}, {len(convolutions)} convolutions", seed, figures)


def transfer(data: TrainingData, recipe: TrainingRecipe, seed: int) -> Iterator[Outcome]:
    """Put strides, means or blurs where trained weights had maxima, with and without fine-tuning.

    anew: with the statistics of the norms taken anew from the training photographs; tuned: trained
    on for a third of the epochs, at a quarter of the learning rate.
    """
    pooled = staged(seed, _halving("max_pool"))
    fit(pooled, data.train, recipe, seed)
    before = accuracy(pooled, data.test)
    short = replace(recipe, epochs=max(recipe.epochs // 3, 1))
    for kind in (kind for kind in COMPARED if kind != "max_pool"):
        replaced = staged(seed, _halving(kind))
        replaced.load_state_dict(pooled.state_dict())
        at_once = accuracy(replaced, data.test)
        settle_statistics(replaced, _centred(data.train.images[:1000]))
        anew = accuracy(replaced, data.test)
        replaced.load_state_dict(pooled.state_dict())
        fit(replaced, data.train, short, seed + 1000, peak=PEAK_LEARNING_RATE / 4)
        figures = {"max_pool": before, "at once": at_once, "anew": anew}
        tuned = {"tuned": accuracy(replaced, data.test)}
        yield Outcome("transfer", f"max_pool -> {kind}", seed, figures | tuned)


def initialisation(data: TrainingData, recipe: TrainingRecipe, seed: int) -> Iterator[Outcome]:
    """Start the strided convolutions of an all-convolutional network in four ways."""
    for start in STARTS:
        network = staged(seed, lambda a, b: [conv_norm(a, b), conv_norm(b, b, 2)])
        for part in network.modules():
            if isinstance(part, nn.Conv2d) and part.stride != (1, 1):
                start_strided(part, start)
        losses = fit(network, data.train, recipe, seed)
        figures = {
            "loss, 1st quarter": fmean(losses[: len(losses) // 4]),
            "loss, 4th": fmean(losses[-(len(losses) // 4) :]),
            "accuracy": accuracy(network, data.test),
        }
        yield Outcome("initialisation", start, seed, figures)


def all_convolutional(data: TrainingData, recipe: TrainingRecipe, seed: int) -> Iterator[Outcome]:
    """Train the four networks of "Striving for Simplicity" (Springenberg et al., 2014), table 1.

    The stride moves into the convolution before (strided), becomes a convolution of its own
    (all-convolutional), or pooling stays and gets that convolution in front (convolution + pool).
    """
    variants: Mapping[str, Stage] = {
        "max pool 3x3": lambda a, b: [conv_norm(a, b), nn.MaxPool2d(3, 2, 1)],
        "strided": lambda a, b: [conv_norm(a, b, 2)],
        "convolution + pool": lambda a, b: [
            conv_norm(a, b),
            conv_norm(b, b),
            nn.MaxPool2d(3, 2, 1),
        ],
        "all-convolutional": lambda a, b: [conv_norm(a, b), conv_norm(b, b, 2)],
    }
    for variant, stage in variants.items():
        network = staged(seed, stage)
        losses = fit(network, data.train, recipe, seed)
        figures = {
            "parameters": float(sum(part.numel() for part in network.parameters())),
            "loss, 4th": fmean(losses[-(len(losses) // 4) :]),
            "accuracy": accuracy(network, data.test),
        }
        yield Outcome("all-convolutional", variant, seed, figures)


Layers = Sequence[nn.Module]
Stage = Callable[[int, int], Layers]
Experiment = Callable[[TrainingData, TrainingRecipe, int], Iterable[Outcome]]
EXPERIMENTS: Mapping[str, Experiment] = {
    "convergence": convergence,
    "depth": depth,
    "transfer": transfer,
    "initialisation": initialisation,
    "all-convolutional": all_convolutional,
}
STARTS = ("as PyTorch does", "He", "average", "blur")


def staged(seed: int, stage: Stage) -> nn.Sequential:
    """Return a classifier of three stages with weights of a seed. (B, 1, 32, 32) -> (B, 10).

    Args:
        seed: of the weights.
        stage: input and output channels of a stage -> its layers, which halve the map.
    """
    torch.manual_seed(seed)
    layers = chain.from_iterable(stage(a, b) for a, b in pairwise((1, *WIDTHS)))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], len(fashion.LABELS)))
    return nn.Sequential(*layers, *head)


def conv_norm(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Return 3x3 convolution -> norm -> ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def start_strided(conv: nn.Conv2d, start: str) -> None:
    """Set the weights of a 3x3 convolution from C to C channels.

    Args:
        conv: to be set.
        start: as PyTorch does (left as it is); He (normal, fan in); average or blur: each channel
            is the mean of 2x2, or the binomial blur of 3 taps, of itself.
    """
    if start == "He":
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if start in ("average", "blur"):
        filters = {"average": F.pad(torch.full((2, 2), 0.25), (1, 0, 1, 0)), "blur": blur_kernel(3)}
        own = torch.eye(conv.out_channels)[:, :, None, None]  # (C, C, 1, 1)
        with torch.no_grad():
            conv.weight.copy_(own * filters[start])


def fit(
    network: nn.Module,
    train: fashion.Photographs,
    recipe: TrainingRecipe,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
    peak: float = PEAK_LEARNING_RATE,
) -> list[float]:
    """Train a network in place and return the loss of each step, in nats.

    Each photograph lies up to 2 pixels from the middle of its canvas of 32.

    Args:
        network: to be trained.
        train: photographs.
        recipe: how many of them, how often.
        seed: of the choice, the order and the places.
        on_step: called after each backward pass.
        peak: learning rate of AdamW, reached by one cycle.
    """
    generator = torch.Generator().manual_seed(seed)
    subset = torch.randperm(len(train.labels), generator=generator)[: recipe.images]
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=peak, total_steps=recipe.steps)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload] # in no stub
    losses: list[float] = []
    for _ in range(recipe.epochs):
        order = subset[torch.randperm(recipe.images, generator=generator)]
        for chosen in order.split(recipe.batch)[: recipe.images // recipe.batch]:
            rows, columns = torch.randint(0, 5, (2, len(chosen)), generator=generator)
            pictures = fashion.place(train.images[chosen], rows, columns, SIZE)
            loss = F.cross_entropy(network(pictures), train.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            on_step()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
    return losses


@torch.inference_mode()
def accuracy(network: nn.Module, test: fashion.Photographs) -> float:
    """Return the share of photographs, in the middle, that are told right; 0..1."""
    network.eval()
    batches = test.images.split(TEST_BATCH)
    answers = torch.cat([network(_centred(batch)).argmax(1) for batch in batches])
    return (answers == test.labels).double().mean().item()


def _centred(images: Tensor) -> Tensor:
    middle = torch.full((len(images),), (SIZE - fashion.PHOTO_SIZE) // 2)
    return fashion.place(images, middle, middle, SIZE)


def _halving(kind: DownsamplingKind, before: int = 0) -> Stage:
    """Return stages of some convolutions at stride 1, then one that halves in its way."""
    how = Downsampling(kind, pad_mode="reflect", conv_pad_mode="zero")

    def stage(in_channels: int, out_channels: int) -> Layers:
        entering = (in_channels, *[out_channels] * before)
        same = [conv_norm(entering[at], out_channels) for at in range(before)]
        return [*same, downsampling_block(entering[-1], out_channels, how)]

    return stage


def _curve(losses: Sequence[float]) -> tuple[float, ...]:
    parts = torch.tensor(losses).tensor_split(min(CURVE_POINTS, len(losses)))
    return tuple(part.mean().item() for part in parts)


def _read(file: Path, made: Mapping[str, object]) -> dict[tuple[str, int], list[Outcome]]:
    """Return the runs of a file that were made alike; a last line that was cut short is none."""
    known: dict[tuple[str, int], list[Outcome]] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            run = json.loads(line)
        except ValueError:
            continue
        outcomes = [
            Outcome(**{**outcome, "curve": tuple(outcome["curve"])})
            for outcome in run.pop("outcomes")
        ]
        if run == made:
            known[outcomes[0].experiment, outcomes[0].seed] = outcomes
    return known


def _append(file: Path, run: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cut_short = file.exists() and not file.read_text().endswith("\n")
    with file.open("a", encoding="utf-8") as lines:
        lines.write("\n" * cut_short + json.dumps(run) + "\n")
