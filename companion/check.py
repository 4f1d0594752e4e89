"""Hold a live server against PyTorch: the same pictures through both, a row a model.

manifest -> reference and samples -> parity -> shift consistency -> latency -> Row
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from companion.parity import Parity, Predict, measure_parity
from companion.reference import load_reference, load_samples
from companion.shift_consistency import Consistency, circular_consistency
from companion.tolerances import misses
from models.spec import Preprocessing
from server.client import InferenceClient, RemoteModel
from server.manifest import read_manifest

BATCH_SIZES = (1, 3, 8)
TIMED_RUNS = 20
WARM_RUNS = 3


@dataclass(frozen=True)
class Row:
    """What one model showed.

    Attributes:
        model: as the server describes it.
        parity: server against reference.
        server_consistency: of the server's answers under circular shifts.
        reference_consistency: of the reference's, under the same shifts.
        server_ms: median latency of one picture, at the client, milliseconds.
        reference_ms: the same of the reference, in this process.
        misses: the tolerances that are missed, in words; empty if the model is as it should be.
    """

    model: RemoteModel
    parity: Parity
    server_consistency: Consistency
    reference_consistency: Consistency
    server_ms: float
    reference_ms: float
    misses: tuple[str, ...]


def check_model(client: InferenceClient, folder: Path, modules: Collection[str] = ()) -> Row:
    """Compare the served model of a folder's name with the reference in that folder.

    Args:
        client: of the server.
        folder: of the model.
        modules: of networks that are not Nyquist's; see load_reference.

    Raises:
        ArtifactError: the folder holds no such version, or it is damaged.
        grpc.RpcError: the server does not serve it, or fails.
    """
    model = client.describe(folder.name)
    manifest = read_manifest(folder, int(model.version))
    reference = load_reference(folder, manifest, modules).predict
    pictures = load_samples(folder, manifest).images.numpy()
    axes = Preprocessing(manifest.preprocessing.layout).shift_axes

    def served(batch: NDArray[Any]) -> NDArray[Any]:
        return client.infer(model, batch)

    batch = BATCH_SIZES[-1]
    parity = measure_parity(reference, served, batches(pictures))
    served_consistency = circular_consistency(served, pictures, axes, batch=batch)
    return Row(
        model=model,
        parity=parity,
        server_consistency=served_consistency,
        reference_consistency=circular_consistency(reference, pictures, axes, batch=batch),
        server_ms=median_latency_ms(served, pictures[:1]),
        reference_ms=median_latency_ms(reference, pictures[:1]),
        misses=tuple(misses(manifest.tolerances, parity, served_consistency)),
    )


def batches(pictures: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut all pictures into batches of 1, 3, 8, 1, 3, 8, ... of them."""
    at = turn = 0
    while at < len(pictures):
        size = BATCH_SIZES[turn % len(BATCH_SIZES)]
        yield pictures[at : at + size]
        at, turn = at + size, turn + 1


def median_latency_ms(predict: Predict, picture: NDArray[Any]) -> float:
    """Return the median time of one call, in milliseconds, once it has run a few times."""
    for _ in range(WARM_RUNS):
        predict(picture)
    times = []
    for _ in range(TIMED_RUNS):
        start = perf_counter()
        predict(picture)
        times.append(perf_counter() - start)
    return 1e3 * median(times)
