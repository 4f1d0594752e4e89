"""Small classifiers as the exporters of others write them: python -m tests.interop.exported FOLDER.

torch, twice -> scikit-learn's converter -> spox -> onnxscript -> FOLDER/NAME/1/model.onnx each
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import spox.opset.ai.onnx.v17 as spox17
import spox.opset.ai.onnx.v21 as spox21
import torch
from onnxscript import FLOAT, opset15, opset18, script
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from spox import Tensor, argument, build
from torch import nn

SHAPE = (3, 8, 8)
CLASSES = 5
PICTURES = torch.zeros(2, *SHAPE)
LEGACY = (7, 9, 11, 13, 17, 20)
DYNAMO = (18, 20, 21, 23)
SKLEARN = (9, 13, 17, 21)

Write = Callable[[Path], object]
WEIGHTS = np.random.default_rng(0).normal(size=(3, CLASSES)).astype(np.float32)


def small() -> nn.Module:
    """A network with what classifiers are made of."""
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)).eval()


def legacy(opset: int, file: Path) -> None:
    """Write with torch's TorchScript exporter."""
    torch.onnx.export(
        small(),
        (PICTURES,),
        file,
        dynamo=False,
        opset_version=opset,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_axes={"pixels": {0: "batch"}, "scores": {0: "batch"}},
    )


def dynamo(opset: int, file: Path, *, beside: bool = False) -> None:
    """Write with torch's newer exporter, the weights in the file or beside it."""
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.onnx.export(
        small(), (PICTURES,), dynamo=True, opset_version=opset, dynamic_shapes=batch
    )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # paths of this machine
    program.save(file, external_data=beside)


def sklearn(opset: int, file: Path, *, numbers: bool = True) -> None:
    """Write a classifier of rows, whose labels are INT64; its default answers with dictionaries."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(60, 4)).astype(np.float32)
    classes = (rows @ generator.normal(size=(4, 3))).argmax(axis=1)
    last = LogisticRegression() if opset < 17 else MLPClassifier((8,), max_iter=50, random_state=0)
    fitted = make_pipeline(StandardScaler(), last).fit(rows, classes)
    options = {"zipmap": False} if numbers else None
    domains = {"": opset, "ai.onnx.ml": 1 if opset < 13 else 3}
    file.write_bytes(
        to_onnx(fitted, rows[:1], options=options, target_opset=domains).SerializeToString()
    )


def by_spox(file: Path) -> None:
    """Write with spox: means of the channels times WEIGHTS."""
    x = argument(Tensor(np.float32, ("N", *SHAPE)))
    means = spox17.reduce_mean(x, axes=(2, 3), keepdims=0)
    scores = spox17.matmul(means, spox17.const(WEIGHTS))
    onnx.save(build({"x": x}, {"scores": scores}), file)


def by_spox_in_halves(file: Path) -> None:
    """Write with spox at opset 21: two inputs, one of them float16, and two outputs."""
    x, bias = argument(Tensor(np.float32, ("N", 3))), argument(Tensor(np.float16, ("N", CLASSES)))
    scores = spox21.add(
        spox21.matmul(x, spox21.const(WEIGHTS)), spox21.cast(bias, to=np.dtype("float32"))
    )
    best = spox21.arg_max(scores, axis=1, keepdims=0)
    onnx.save(build({"x": x, "bias": bias}, {"scores": scores, "best": best}), file)


THREE, FIVE = FLOAT["N", 3], FLOAT["N", CLASSES]  # type: ignore[misc] # N is the axis's name


@script(default_opset=opset15)
def squares(x: THREE) -> THREE:  # type: ignore[valid-type] # onnxscript's way to say shapes
    """Square each number."""
    return opset15.Mul(x, x)


@script(default_opset=opset18)
def shares(x: FIVE) -> FIVE:  # type: ignore[valid-type] # likewise
    """Turn scores into probabilities."""
    return opset18.Softmax(x, axis=1)


def all_of_them() -> Iterator[tuple[str, Write]]:
    """Yield the name of each file, and what writes it."""
    for opset in LEGACY:
        yield f"torch_legacy_{opset}", partial(legacy, opset)
    for opset in DYNAMO:
        yield f"torch_dynamo_{opset}", partial(dynamo, opset)
    yield "torch_dynamo_beside", partial(dynamo, 18, beside=True)
    for opset in SKLEARN:
        yield f"skl2onnx_{opset}", partial(sklearn, opset)
    yield "skl2onnx_dictionaries", partial(sklearn, 17, numbers=False)
    yield "spox_17", by_spox
    yield "spox_21_in_halves", by_spox_in_halves
    yield "onnxscript_15", lambda file: onnx.save(squares.to_model_proto(), file)
    yield "onnxscript_18", lambda file: onnx.save(shares.to_model_proto(), file)


def main() -> None:
    """Write all of them below the folder."""
    warnings.simplefilter("ignore")
    for name, write in all_of_them():
        folder = Path(sys.argv[1]) / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            write(folder / "model.onnx")


if __name__ == "__main__":
    main()
