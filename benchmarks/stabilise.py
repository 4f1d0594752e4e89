"""What stabilisation brings on photographs, as rows of docs/stabilise.md.

python -m benchmarks.stabilise GRAPH... --photographs FILE...

GRAPH is a served model.onnx of uint8 (224, 224, 3), such as that of efficientnet_lite0. Each
photograph is brought to 320 pixels along its shorter side. Its corners of 288 x 288 are scenes, out
of which frames of 256 x 256 are taken.
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nyquist.export.graph.stabilise import stabilise
from nyquist.export.judge import open_graph
from nyquist.export.report.moves import REACH, Scenes, measure_moves
from nyquist.export.report.record import Flips, Moves
from nyquist.models.spec import STABILISERS, ModelSpec, Preprocessing, Stabilisation, Stabiliser
from nyquist.models.stabilised import plain_pictures

SIDE, SHORTER, BATCH = 224, 320, 8


def corners_of(path: Path, side: int) -> NDArray[np.uint8]:
    """Return the four corners of a photograph, (4, side, side, 3)."""
    picture = Image.open(path).convert("RGB")
    scale = SHORTER / min(picture.size)
    wide, high = (max(SHORTER, round(length * scale)) for length in picture.size)
    pixels = np.asarray(picture.resize((wide, high), Image.Resampling.BICUBIC))
    return np.stack(
        [pixels[y : y + side, x : x + side] for y in (0, high - side) for x in (0, wide - side)]
    )


def spec_of(kind: Stabiliser) -> ModelSpec:
    """Describe what a graph of pixels takes, as far as a stabilisation reads it."""
    return ModelSpec(
        name="stabilised",
        architecture="",
        options={},
        weights=None,
        labels=(),
        samples="",
        input=(3, SIDE, SIDE),
        datatype="UINT8",
        preprocessing=Preprocessing("HWC"),
        stabilisation=Stabilisation(kind),
    )


def measure(graph: bytes, kind: Stabiliser, photographs: list[Path], places: int) -> Moves:
    """Measure one kind of stabilisation in front of one graph."""
    spec = spec_of(kind)
    scenes = [corners_of(photograph, spec.served[1] + REACH) for photograph in photographs]
    return measure_moves(
        Scenes(
            pictures=np.concatenate(scenes),
            owners=np.repeat(np.arange(len(scenes)), 4),
            plain=open_graph(graph, BATCH),
            stable=open_graph(stabilise(graph, spec), BATCH),
            middle=lambda frames: plain_pictures(torch.from_numpy(frames), spec).numpy(),
            layout="HWC",
            batch=BATCH,
            places=places,
        )
    )


def shown(flips: Flips, pairs: int) -> str:
    """Return a share with its standard error over photographs, percent, and the count."""
    return f"{100 * flips.share:.1f} +- {100 * flips.standard_error:.1f} ({flips.count}/{pairs})"


def main() -> None:
    """Measure each kind on each graph."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("graphs", nargs="+", type=Path)
    parser.add_argument("--photographs", nargs="+", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=STABILISERS, default=STABILISERS)
    parser.add_argument("--places", type=int, default=8, help="frames of each scene (8)")
    options = parser.parse_args()
    for path in options.graphs:
        for kind in options.kinds:
            found = measure(path.read_bytes(), kind, options.photographs, options.places)
            lines = [f"{path} {kind}: {found.photographs} photographs, CPU {found.cpu_ratio:.2f}x"]
            for line in found.lines:
                plain, stable = shown(line.plain, line.pairs), shown(line.stable, line.pairs)
                lines.append(f"  {line.name}: plain {plain}, stabilised {stable}")
            lines.append(f"  same answer: {shown(found.agreement, found.pairs)}")
            lines.append(f"  where plain is sure: {shown(found.sure_agreement, found.sure_pairs)}")
            print("\n".join(lines), flush=True)  # noqa: T201 # what it is for


if __name__ == "__main__":
    main()
