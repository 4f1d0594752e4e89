"""When a blur before the stride pays: one figure for each use that is named for it.

classification  the answer at two random places of the same picture
video           flips of the answer a second, in clips that slide, zoom and turn
detection       how far the strongest cell of a feature map leaves the object that moves
adversarial     whether any shift of a grid changes the answer
constrained     multiply-adds, and what a picture takes
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.analysis.analysed import AnalysedNetwork
from nyquist.models.analysis.cost import cost
from nyquist.models.analysis.effective_field import feature_map
from nyquist.models.analysis.module_graph import module_graph
from nyquist.models.analysis.properties import Spread, forward_times
from nyquist.models.analysis.receptive_field import receptive_fields
from nyquist.models.fashion import FIGURES_FILE, WEIGHTS

FRAMES_A_SECOND = 30
CLIP_SECONDS = 2.0
SLIDE, ZOOM, TURN = 12.0, 1.2, 15.0
"""Of a clip from first to last frame: pixels along each axis, factor, degrees."""
DISTANCES = tuple(range(13))
DETECTION_STEPS = 16
LEAST_GRID = 6
GRID = 4
BATCH = 50


@dataclass(frozen=True)
class Uses:
    """What one network does with pictures that move.

    Attributes:
        accuracy: of the centred test photographs, as trained; None where it is not recorded.
        shifted_accuracy: the same at random places.
        same: share of pictures with one answer at two random circular shifts, 0..1.
        flips: changes of the answer a second, in clips of 30 frames a second.
        jitter: root mean square distance of the strongest cell from where the object went, px.
        grid_jitter: what a grid as coarse as that map cannot do without, px.
        unchanged: share of pictures with one answer over every shift of a grid.
        multiply_adds: for one picture.
        time: of one picture, in a batch.
        distances: share of pictures whose answer is that of the unmoved one, by DISTANCES.
    """

    accuracy: float | None
    shifted_accuracy: float | None
    same: float
    flips: float
    jitter: float
    grid_jitter: float
    unchanged: float
    multiply_adds: int
    time: Spread
    distances: Sequence[float]


def measure_uses(subjects: Sequence[AnalysedNetwork], seed: int = 0) -> dict[str, Uses]:
    """Measure networks on their own pictures.

    Args:
        subjects: each with pictures; those with pictures alike are timed in the same rounds.
        seed: of the places.
    """
    batch = subjects[0].pictures[:BATCH]
    alike = {one.name: one.network for one in subjects if one.pictures.shape[1:] == batch.shape[1:]}
    times = forward_times(alike, batch, 5)
    recorded = _recorded()
    found = {}
    for subject in subjects:
        pictures, network = subject.pictures, subject.network
        still = answers(network, pictures)
        jitter, grid = detection_jitter(network, pictures)
        spread = times.get(subject.name) or forward_times({"": network}, pictures[:BATCH], 5)[""]
        figures = recorded.get(subject.name.removeprefix("fashion_"), {})
        found[subject.name] = Uses(
            accuracy=figures.get("accuracy"),
            shifted_accuracy=figures.get("shifted_accuracy"),
            same=same_answers(network, pictures, seed),
            flips=flips_a_second(network, pictures),
            jitter=jitter,
            grid_jitter=grid,
            unchanged=unchanged_answers(network, pictures),
            multiply_adds=cost(network, _shape(pictures)).multiply_adds,
            time=Spread(*(s / min(BATCH, len(pictures)) for s in _seconds(spread))),
            distances=[
                _share(answers(network, pictures.roll((away, away), (2, 3))) == still)
                for away in DISTANCES
            ],
        )
    return found


@torch.inference_mode()
def answers(network: nn.Module, pictures: Tensor) -> Tensor:
    """Return the class of each picture, int64 (B,)."""
    return torch.cat([network(batch).argmax(1) for batch in pictures.split(BATCH)])


def same_answers(network: nn.Module, pictures: Tensor, seed: int = 0) -> float:
    """Return the share of pictures with one answer at two random circular shifts, 0..1."""
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for _ in range(2):
        moves = torch.randint(0, pictures.shape[2], (len(pictures), 2), generator=generator)
        moved = [
            picture.roll(move, (1, 2))
            for picture, move in zip(pictures, moves.tolist(), strict=True)
        ]
        seen.append(answers(network, torch.stack(moved)))
    return _share(seen[0] == seen[1])


def unchanged_answers(network: nn.Module, pictures: Tensor, size: int = GRID) -> float:
    """Return the share of pictures whose answer is one over all of size x size circular shifts."""
    still = answers(network, pictures)
    held = torch.ones(len(pictures), dtype=torch.bool)
    for down, across in torch.cartesian_prod(torch.arange(size), torch.arange(size)).tolist():
        held &= answers(network, pictures.roll((down, across), (2, 3))) == still
    return _share(held)


def clip(picture: Tensor, seconds: float = CLIP_SECONDS, rate: int = FRAMES_A_SECOND) -> Tensor:
    """Return a clip in which a picture slides, grows and turns evenly. (C, H, W) -> (T, C, H, W).

    The first frame is the picture; what enters at the border continues it. Bilinear.
    """
    height, width = picture.shape[1:]
    frames = round(seconds * rate)
    along = torch.linspace(0, 1, frames)
    angle, scale = along * math.radians(TURN), 1 / (1 + along * (ZOOM - 1))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    down, across = -2 * SLIDE * along / height, -2 * SLIDE * along / width
    rows = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(rows, [frames, *picture.shape], align_corners=False)
    whole = picture.expand(frames, -1, -1, -1)
    return F.grid_sample(whole, grid, padding_mode="border", align_corners=False)


def flips_a_second(network: nn.Module, pictures: Tensor) -> float:
    """Return how often the answer changes from frame to frame, a second, mean over clips."""
    seen = [answers(network, clip(picture)) for picture in pictures]
    return fmean(int((one[1:] != one[:-1]).sum()) for one in seen) / CLIP_SECONDS


def detection_jitter(network: nn.Module, pictures: Tensor) -> tuple[float, float]:
    """Follow the strongest cell of a feature map while its picture moves pixel by pixel.

    The map is the deepest of at least 6 x 6 cells that a leaf module puts out. Its strongest cell
    (largest norm over channels), times the map's jump, is where a detector would say the object is.
    Returns how far that lies from where the picture went, root mean square around each picture's
    own mean, and jump / sqrt(12), what a grid of that jump has by itself; pixels.
    """
    layer, jump = _detection_layer(network, pictures[:1])
    steps = range(min(DETECTION_STEPS, pictures.shape[3]))
    places = []
    for step in steps:
        with torch.inference_mode():
            seen = feature_map(network, pictures.roll(step, 3), layer).norm(dim=1)  # (B, h, w)
        places.append(seen.flatten(1).argmax(1) % seen.shape[2] * jump)
    width = pictures.shape[3]
    where = torch.stack(places).double() - torch.tensor(list(steps))[:, None]  # (steps, B)
    off = where - where[0]
    off = (off + width / 2) % width - width / 2  # the nearer way around
    return float((off - off.mean(0)).square().mean().sqrt()), jump / 12**0.5


def _detection_layer(network: nn.Module, picture: Tensor) -> tuple[str, int]:
    graph = module_graph(network, picture)
    fields = receptive_fields(graph)
    seen = {node.layer.name for node in graph.nodes}
    leaves = (name for name, part in network.named_modules() if not any(part.children()))
    ends = sorted(graph.index(name) for name in leaves if name in seen)
    found = [index for index in ends if min(graph.nodes[index].grid) >= LEAST_GRID]
    if not found:
        raise ValueError(f"no map has {LEAST_GRID}x{LEAST_GRID} cells; use larger pictures")
    return graph.nodes[found[-1]].layer.name, fields[found[-1]].columns.jump


def _recorded() -> Mapping[str, Any]:
    families = json.loads((WEIGHTS / FIGURES_FILE).read_text())
    return {family: made["figures"] for family, made in families.items()}


def _shape(pictures: Tensor) -> tuple[int, int, int]:
    channels, height, width = pictures.shape[1:]
    return channels, height, width


def _seconds(spread: Spread) -> tuple[float, float, float]:
    return spread.low, spread.median, spread.high


def _share(held: Tensor) -> float:
    return held.double().mean().item()
