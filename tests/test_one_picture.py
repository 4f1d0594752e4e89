"""One picture, every way in, one answer: client, command, file over gRPC, companion and build."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nyquist.__main__ import main
from nyquist.client.client import Client
from nyquist.companion.__main__ import subject_of
from nyquist.companion.command_line import make_parser
from nyquist.companion.references.network import load_reference
from nyquist.models.fashion import load_sample, place_centred
from nyquist.models.samples import read_samples
from nyquist.models.zoo import specs
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.wire.head import CLASSES
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import ROOT, RunningServer
from tests.requests import image_request, logits

DATA = ROOT / "models/nyquist/models/data"
COFFEE = DATA / "photographs" / "coffee.png"
ESPRESSO = 967
ORIENTATION = 0x0112
LYING = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
"""EXIF orientation -> how the pixels then lie in the file."""


def photograph(kind: str, size: tuple[int, int], orientation: int = 1, mode: str = "RGB") -> bytes:
    """The cup of coffee as a file; one that does not lie upright says so."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    with Image.open(COFFEE) as opened:
        picture = opened.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    if orientation in LYING:
        picture = picture.transpose(LYING[orientation])
    with io.BytesIO() as file:
        picture.convert(mode).save(file, kind, quality=95, exif=exif)
        return file.getvalue()


FILES = {
    "as_it_is.png": COFFEE.read_bytes(),
    "portrait.jpg": photograph("JPEG", (256, 256), orientation=6),
    "phone.jpg": photograph("JPEG", (3024, 4032), orientation=6),
    "wide.webp": photograph("WEBP", (640, 360), orientation=3),
    "print.jpg": photograph("JPEG", (300, 300), mode="CMYK"),
    "grey.png": photograph("PNG", (500, 375), mode="L"),
    "palette.png": photograph("PNG", (200, 300), mode="P"),
}


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A picture file in a folder of its own."""
    path = tmp_path / request.param
    path.write_bytes(FILES[request.param])
    return path


def by_the_companion(server: RunningServer, model: str, path: Path) -> NDArray[Any]:
    """Return what the companion sends of a file."""
    command = ["check", "--target", server.target, "--pictures", str(path)]
    options = make_parser().parse_args(command)
    sent = subject_of(options, model).pictures
    dtype = np.uint8 if sent.datatype == "UINT8" else np.float32
    return np.frombuffer(sent.raw, dtype).reshape(sent.shape)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "fashion_blur"])
def test_one_file_has_one_answer_on_every_way_in(
    server: RunningServer,
    client: Client,
    stub: stubs.GRPCInferenceServiceStub,
    capsys: pytest.CaptureFixture[str],
    file: Path,
    name: str,
) -> None:
    model = client.describe(name)
    by_client = model.read_pictures([file])
    by_build = read_samples(specs()[name], str(file.parent)).images.numpy()
    assert np.array_equal(by_client, by_build)
    assert by_client.dtype == by_build.dtype
    assert np.array_equal(by_client, by_the_companion(server, name, file))
    by_server = logits(stub.ModelInfer(image_request([file.read_bytes()], name)))
    assert np.array_equal(client.infer(model, by_client), by_server)

    assert main(["classify", str(file), "--model", name, "--target", server.target]) == 0
    *label, probability = capsys.readouterr().out.splitlines()[4].split()
    shares = CLASSES.probabilities(by_server[0])
    assert " ".join(label) == specs()[name].labels[shares.argmax()]
    assert probability == f"{shares.max():.3f}"


@pytest.mark.parametrize("name", ["as_it_is.png", "portrait.jpg", "phone.jpg"])
def test_an_espresso_is_one_however_the_camera_was_held(
    server: RunningServer,
    client: Client,
    stub: stubs.GRPCInferenceServiceStub,
    repository: Path,
    tmp_path: Path,
    name: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    model = client.describe("efficientnet_lite0")
    folder = repository / model.name
    reference = load_reference(folder, read_manifest(folder, 1))
    answers = (
        client.infer(model, model.read_pictures([path])),
        logits(stub.ModelInfer(image_request([FILES[name]], model.name))),
        reference.predict(by_the_companion(server, model.name, path).copy()),
    )
    assert [
        CLASSES.probabilities(answer.astype(np.float64))[0, ESPRESSO] > 0.9 for answer in answers
    ] == [True] * 3


def test_a_photograph_of_the_data_set_arrives_as_the_build_placed_it(
    client: Client, stub: stubs.GRPCInferenceServiceStub, tmp_path: Path
) -> None:
    photographs = load_sample().images[:1]
    path = tmp_path / "photograph.png"
    Image.fromarray(photographs[0].numpy()).save(path)
    model = client.describe("fashion_blur")
    placed = place_centred(photographs)[None, 0].numpy()
    assert np.array_equal(model.read_pictures([path]), placed)
    by_server = logits(stub.ModelInfer(image_request([path.read_bytes()], model.name)))
    assert np.array_equal(client.infer(model, placed), by_server)
