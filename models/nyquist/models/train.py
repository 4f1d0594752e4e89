"""Train the compact classifiers on Fashion-MNIST: photographs -> weights/fashion_*.

python -m nyquist.models.train                  all six families; 10 to 13 minutes on two busy cores
python -m nyquist.models.train --families blur  one of them
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads stall beside any neighbour
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors.torch import save
from torch import Tensor, nn

from nyquist.models import fashion
from nyquist.models.layers.downsampling import DOWNSAMPLING_KINDS, Downsampling, DownsamplingKind
from nyquist.models.networks.compact import CompactClassifier

PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-2
TEST_BATCH = 250


@dataclass(frozen=True)
class Recipe:
    """What, with the data, determines the weights.

    Attributes:
        images: photographs drawn from the 60,000 of the training split, the same for each epoch.
        epochs: passes over them.
        batch: photographs a step.
        seed: of the initial weights, the subset, its order, the positions and the flips.

    Raises:
        ValueError: there would be no step.
    """

    images: int = 42_000
    epochs: int = 2
    batch: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < self.batch or self.epochs < 1:
            raise ValueError(
                f"at least {self.batch} images and 1 epoch are needed, "
                f"got {self.images} and {self.epochs}"
            )

    @property
    def steps(self) -> int:
        """Optimiser steps in all; the last, incomplete batch of an epoch is left out."""
        return self.epochs * (self.images // self.batch)


@dataclass(frozen=True)
class Figures:
    """What one training gave.

    Attributes:
        accuracy: share of the 10,000 test photographs that are right, centred; 0..1.
        shifted_accuracy: the same, each at a random place of its canvas; 0..1.
        final_loss: mean cross entropy of the last 50 steps, nats.
        seconds: wall time of the training.
    """

    accuracy: float
    shifted_accuracy: float
    final_loss: float
    seconds: float


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the photographs and place each at random. -> float32 (N, 1, 48, 48)."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None], images.flip(2), images)
    return fashion.place_randomly(images, generator).to(memory_format=torch.channels_last)


def fit(
    network: nn.Module, train: fashion.Photographs, recipe: Recipe, on_step: Callable[[], None]
) -> float:
    """Train `network` in place and return the mean loss of the last 50 steps, in nats."""
    generator = torch.Generator().manual_seed(recipe.seed)
    subset = torch.randperm(len(train.labels), generator=generator)[: recipe.images]
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=PEAK_LEARNING_RATE, total_steps=recipe.steps
    )
    losses: list[float] = []
    network.train()
    for _ in range(recipe.epochs):
        order = subset[torch.randperm(recipe.images, generator=generator)]
        for chosen in order.split(recipe.batch)[: recipe.images // recipe.batch]:
            logits = network(augment(train.images[chosen], generator))
            loss = F.cross_entropy(logits, train.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
            on_step()
    return sum(losses[-50:]) / len(losses[-50:])


@torch.inference_mode()
def accuracy(network: nn.Module, canvases: Tensor, labels: Tensor) -> float:
    """Return the share of right answers, 0..1. canvases: float32 (N, 1, 48, 48)."""
    network.eval()
    batches = canvases.to(memory_format=torch.channels_last).split(TEST_BATCH)
    answers = torch.cat([network(batch).argmax(1) for batch in batches])
    return round((answers == labels).double().mean().item(), 4)


def train_family(
    kind: DownsamplingKind, data: Path, recipe: Recipe, progress: Progress
) -> tuple[nn.Module, Figures]:
    """Train one family from its seed and measure it on the whole test split."""
    train, test = fashion.load_split(data, "train"), fashion.load_split(data, "t10k")
    if len(train.labels) < recipe.images:
        raise ValueError(f"{recipe.images} images are asked for, {data} has {len(train.labels)}")
    bar = progress.add_task(kind, total=recipe.steps)
    torch.manual_seed(recipe.seed)
    network = CompactClassifier(Downsampling(kind))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # in no stub
    start = perf_counter()
    final_loss = fit(network, train, recipe, lambda: progress.advance(bar))
    seconds = perf_counter() - start
    anywhere = torch.Generator().manual_seed(recipe.seed)
    figures = Figures(
        accuracy=accuracy(network, fashion.place_centred(test.images), test.labels),
        shifted_accuracy=accuracy(
            network, fashion.place_randomly(test.images, anywhere), test.labels
        ),
        final_loss=round(final_loss, 4),
        seconds=round(seconds, 1),
    )
    return network, figures


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


def record(
    output: Path, kind: DownsamplingKind, recipe: Recipe, data: Path, figures: Figures
) -> None:
    """Write what made the weights of a family, and what was measured, beside them."""
    path = output / fashion.FIGURES_FILE
    families = json.loads(path.read_text()) if path.exists() else {}
    families[kind] = {
        "command": f"python -m nyquist.models.train --families {kind} --images {recipe.images} "
        f"--epochs {recipe.epochs} --seed {recipe.seed}",
        "recipe": asdict(recipe),
        "data": {"debian_package": fashion.DEBIAN_PACKAGE, "sha256": fashion.sha256_of(data)},
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "figures": asdict(figures),
    }
    write_whole(path, (json.dumps(families, indent=2) + "\n").encode())


def print_table(console: Console, figures: dict[str, Figures]) -> None:
    """Print a row a family."""
    table = Table("family", "accuracy", "shifted", "final loss", "seconds")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figure in figures.items():
        table.add_row(
            name,
            f"{figure.accuracy:.2%}",
            f"{figure.shifted_accuracy:.2%}",
            f"{figure.final_loss:.3f}",
            f"{figure.seconds:.0f}",
        )
    console.print(table)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; see `python -m nyquist.models.train --help`."""
    defaults = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m nyquist.models.train",
        description="Train the compact classifiers on Fashion-MNIST.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=fashion.DEFAULT_DIRECTORY,
        help="folder of IDX files (%(default)s)",
    )
    parser.add_argument(
        "--families", nargs="+", choices=DOWNSAMPLING_KINDS, default=DOWNSAMPLING_KINDS
    )
    parser.add_argument(
        "--images", type=int, default=defaults.images, help="of 60,000 (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=fashion.WEIGHTS, help="(models/weights)")
    parser.add_argument(
        "--calibration",
        action="store_true",
        help="write the photographs that int8 ranges are taken from, and train nothing",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the families asked for; return the exit status."""
    options = parse(arguments)
    console = Console()
    figures: dict[str, Figures] = {}
    try:
        if options.calibration:
            fashion.write_calibration(options.data)
            return 0
        recipe = Recipe(images=options.images, epochs=options.epochs, seed=options.seed)
        options.output.mkdir(parents=True, exist_ok=True)
        columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            for kind in options.families:
                network, figures[kind] = train_family(kind, options.data, recipe, progress)
                weights = {name: value.contiguous() for name, value in network.state_dict().items()}
                write_whole(options.output / f"fashion_{kind}.safetensors", save(weights))
                record(options.output, kind, recipe, options.data, figures[kind])
    except (OSError, ValueError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 1
    print_table(console, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
