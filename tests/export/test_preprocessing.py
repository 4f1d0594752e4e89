"""What a graph does to a picture before the network, against PyTorch and against Pillow."""

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nyquist.export.graph.export import export_graph
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.spec import Layout, Preprocessing, Size
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution

LEAST, MOST = 8, 400
PILLOW_LEVELS = 1.01
"""Of 255. Pillow rounds the picture twice, after each axis: half a level each time."""

TORCH_LEVELS = 2e-3
MEAN, SCALE = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIZES = ((32, 32), (33, 47), (17, 400), (400, 17), (101, 67), (8, 8))


class Small(nn.Module):
    """A convolution and the mean of each of its maps: any size, exported in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean(dim=(2, 3))


class Flat(nn.Module):
    """Returns the picture that the network would see, as logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def graph(network: nn.Module, layout: Layout) -> bytes:
    """Export a network for pictures of any size."""
    pixels = layout == "HWC"
    shape = (2, 48, 48, 3) if pixels else (2, 3, 48, 48)
    example = torch.zeros(shape, dtype=torch.uint8 if pixels else torch.float32)
    spans = dict.fromkeys((1, 2) if pixels else (2, 3), (LEAST, MOST))
    return export_graph(network, example, spans=spans).graph


def random_pictures(count: int, size: Size) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def by_pillow(pictures: NDArray[np.uint8], size: Size) -> NDArray[np.float64]:
    """Resize each picture. -> (B, C * H * W), as Flat gives them."""
    resized = [
        np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
        for picture in pictures
    ]
    return np.stack(resized).transpose(0, 3, 1, 2).reshape(len(pictures), -1).astype(np.float64)


@pytest.fixture(scope="module", params=[(32, 32), (33, 47)], ids=str)
def resizer(request: pytest.FixtureRequest) -> tuple[Size, nn.Module, bytes]:
    size: Size = request.param
    network = PreprocessedNetwork(Flat(), Preprocessing("HWC", resize=size)).eval()
    return size, network, graph(network, "HWC")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resizing_in_the_graph_is_that_of_pillow_to_one_level(
    resizer: tuple[Size, nn.Module, bytes], size: Size
) -> None:
    target, network, exported = resizer
    engine = Engine(exported, Execution(provider="cpu", threads=1), 3)
    for batch in (1, 3):
        pictures = random_pictures(batch, size)

        served = engine.run(pictures)["logits"].astype(np.float64)

        with torch.inference_mode():
            expected = network(torch.from_numpy(pictures)).numpy()
        assert np.abs(served - expected).max() <= TORCH_LEVELS
        assert np.abs(served - by_pillow(pictures, target)).max() <= PILLOW_LEVELS


def test_a_resize_names_its_axes_and_computes_no_shapes(
    resizer: tuple[Size, nn.Module, bytes],
) -> None:
    nodes = onnx.load_from_string(resizer[2]).graph.node
    assert [node.op_type for node in nodes] == ["Transpose", "Cast", "Resize", "Reshape"]
    attributes = {
        entry.name: onnx.helper.get_attribute_value(entry) for entry in nodes[2].attribute
    }
    assert list(attributes["axes"]) == [2, 3]
    assert (attributes["antialias"], attributes["exclude_outside"]) == (1, 1)


@pytest.mark.parametrize(
    ("layout", "mean", "scale"),
    [("HWC", MEAN, SCALE), ("CHW", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))],
)
@pytest.mark.parametrize("resize", [None, (40, 40)])
def test_a_mean_and_a_scale_for_each_channel_hold_in_the_graph_at_three_sizes(
    layout: Layout,
    mean: tuple[float, ...],
    scale: tuple[float, ...],
    resize: Size | None,
) -> None:
    torch.manual_seed(0)
    preprocessing = Preprocessing(layout, mean, scale, resize)
    network = PreprocessedNetwork(Small(), preprocessing).eval()
    engine = Engine(graph(network, layout), Execution(provider="cpu", threads=1), 3)
    for size in ((32, 32), (48, 64), (80, 33)):
        pixels = random_pictures(3, size)
        pictures = pixels if layout == "HWC" else _chw(pixels)

        served = engine.run(pictures)["logits"].astype(np.float64)

        with torch.inference_mode():
            expected = network(torch.from_numpy(pictures)).numpy()
        assert np.abs(served - expected).max() <= 1e-4 * expected.std()


def test_pixels_with_means_of_pixels_are_floats_with_means_of_shares() -> None:
    size = (16, 24)
    pixels = random_pictures(2, size)
    of_pixels = PreprocessedNetwork(Flat(), Preprocessing("HWC", MEAN, SCALE))
    shares = tuple(value / 255 for value in MEAN), tuple(value / 255 for value in SCALE)
    of_floats = PreprocessedNetwork(Flat(), Preprocessing("CHW", *shares))

    found = of_pixels(torch.from_numpy(pixels))

    torch.testing.assert_close(found, of_floats(torch.from_numpy(_chw(pixels))))


def _chw(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
