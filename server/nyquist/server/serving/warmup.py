"""The requests of `model_warmup`, which a model has to answer before it is served.

sample -> an array for each input: zeros, noise or a file -> what the engine takes
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.feeds import Feeds
from nyquist.server.wire.pb import model_config_pb2 as pb
from nyquist.server.wire.signature import DYNAMIC, Signature, TensorSpec
from nyquist.server.wire.tensors import DTYPES, as_strings, parse_bytes_elements

FOLDER = "warmup"
"""Below that of the model, where the files of samples lie."""

Read = Callable[[str], bytes]


def warmup_batches(
    config: pb.ModelConfig, signature: Signature, read: Read
) -> Iterator[tuple[str, int, NDArray[Any] | Feeds]]:
    """Yield name, number of runs and inputs of each sample.

    Args:
        config: of the model, complete.
        signature: of the model.
        read: reads a file by its path below the model's folder.

    Raises:
        ArtifactError: a sample is none of this model's requests.
    """
    for sample in config.model_warmup:
        try:
            yield sample.name, sample.count or 1, _batch(sample, config, signature, read)
        except ArtifactError as error:
            raise ArtifactError(f"model_warmup {sample.name!r}: {error}") from error


def _batch(
    sample: pb.ModelWarmup, config: pb.ModelConfig, signature: Signature, read: Read
) -> NDArray[Any] | Feeds:
    most, rows = config.max_batch_size or 1, sample.batch_size or 1
    if rows > most:
        raise ArtifactError(f"batch_size is {rows}, max_batch_size is {config.max_batch_size}")
    names = [spec.name for spec in signature.inputs]
    if sorted(sample.inputs) != sorted(names):
        raise ArtifactError(f"it has the inputs {sorted(sample.inputs)}, the model {sorted(names)}")
    front = (rows,) if signature.batched else ()
    arrays = {
        spec.name: _array(sample.inputs[spec.name], spec, front, read) for spec in signature.inputs
    }
    return arrays[names[0]] if signature.plain else Feeds(arrays, rows)


def _array(
    said: pb.ModelWarmup.Input, spec: TensorSpec, front: tuple[int, ...], read: Read
) -> NDArray[Any]:
    """Return an input as the graph takes it."""
    shape = (*front, *said.dims)
    first = shape[0] if shape else None
    datatype = pb.DataType.Name(said.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
    fits = spec.batch in (DYNAMIC, first) and spec.fits(shape[1:])
    if datatype != spec.datatype or not fits:
        raise ArtifactError(
            f"input {spec.name!r} is {datatype} {list(shape)}, "
            f"the model takes {spec.datatype} {list(spec.whole)}"
        )
    array = _filled(said, spec, shape, len(front), read)
    return array.reshape(spec.to_graph(shape))


def _filled(
    said: pb.ModelWarmup.Input, spec: TensorSpec, shape: tuple[int, ...], front: int, read: Read
) -> NDArray[Any]:
    dtype, kind = DTYPES[spec.datatype], said.WhichOneof("input_data_type")
    if kind == "input_data_file":
        content = read(f"{FOLDER}/{said.input_data_file}")
        return _from_file(content, spec, shape, shape[front:])
    if kind is None:
        raise ArtifactError(
            f"input {spec.name!r} has no data: zero_data, random_data or input_data_file has"
        )
    noise = np.random.default_rng(0)
    values = noise.uniform(size=shape) if dtype.kind == "f" else noise.integers(0, 128, shape)
    if kind == "zero_data":
        values = np.zeros(shape)
    if spec.datatype == "BYTES":
        return np.where(values == 0, "", values.astype(str)).astype(object)
    return values.astype(dtype)


def _from_file(
    content: bytes, spec: TensorSpec, shape: tuple[int, ...], row: tuple[int, ...]
) -> NDArray[Any]:
    """Read raw contents: of the whole batch, or of one row that all of it repeats."""
    try:
        if spec.datatype == "BYTES":
            elements = parse_bytes_elements(content)
            flat = as_strings(elements, (len(elements),))
        else:
            flat = np.frombuffer(content, DTYPES[spec.datatype])
    except ValueError as error:
        raise ArtifactError(f"the file of input {spec.name!r}: {error}") from error
    if flat.size == prod(shape):
        return flat
    if flat.size == prod(row):
        return np.broadcast_to(flat.reshape(row), shape)
    raise ArtifactError(
        f"the file of input {spec.name!r} has {flat.size} elements, {list(shape)} takes "
        f"{prod(shape)}"
    )
