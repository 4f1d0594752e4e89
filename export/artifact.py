"""Write an artifact whole: a reader sees the old one or the new one, never a mixture.

files -> temporary folder beside the target -> fsync -> manifest -> exchange
"""

import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from google.protobuf import text_format
from safetensors.torch import save
from torch import nn

from export.graph import INPUT, OPSET, OUTPUT
from models.samples import Samples
from models.zoo import ModelSpec
from server import manifest as artifact
from server.manifest import Architecture, Figures, Manifest, Preprocessing, Tensor, Tolerances
from server.model_config import DEFAULT_MAX_QUEUE_SIZE, PLATFORM
from server.pb import model_config_pb2 as pb
from server.repository import LABELS_FILE

VERSION = 1
KEPT_SAMPLES = 64
BUILT_WITH = ("nyquist", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def tolerances_of(spec: ModelSpec) -> Tolerances:
    """Return what the manifest of a model promises."""
    return Tolerances(
        parity=spec.parity,
        consistency=spec.consistency,
        accuracy=spec.accuracy,
        confidence=spec.confidence,
    )


def artifact_files(
    spec: ModelSpec, graph: bytes, network: nn.Module, samples: Samples
) -> dict[str, bytes]:
    """Return every file but the manifest, by path below the model's folder."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    kept = samples.spread(KEPT_SAMPLES)
    return {
        artifact.CONFIG_FILE: model_config(spec).encode(),
        LABELS_FILE: "".join(f"{label}\n" for label in spec.labels).encode(),
        f"{VERSION}/{artifact.MODEL_FILE}": graph,
        f"{VERSION}/{artifact.REFERENCE_FILE}": save(weights),
        f"{VERSION}/{artifact.SAMPLES_FILE}": save({"images": kept.images, "labels": kept.labels}),
    }


def model_config(spec: ModelSpec) -> str:
    """Return config.pbtxt, in the protobuf text format."""
    config = pb.ModelConfig(name=spec.name, platform=PLATFORM, max_batch_size=spec.max_batch_size)
    hwc = spec.preprocessing.layout == "HWC"
    config.input.add(
        name=INPUT,
        data_type=pb.DataType.Value(f"TYPE_{spec.datatype}"),
        format=pb.ModelInput.FORMAT_NHWC if hwc else pb.ModelInput.FORMAT_NCHW,
        dims=spec.shape,
    )
    config.output.add(
        name=OUTPUT, data_type=pb.TYPE_FP32, dims=[len(spec.labels)], label_filename=LABELS_FILE
    )
    config.dynamic_batching.default_queue_policy.max_queue_size = DEFAULT_MAX_QUEUE_SIZE
    return text_format.MessageToString(config)


def make_manifest(spec: ModelSpec, files: dict[str, bytes], figures: Figures) -> Manifest:
    """Describe an artifact."""
    return Manifest(
        name=spec.name,
        version=VERSION,
        input=Tensor(name=INPUT, datatype=spec.datatype, shape=spec.shape),
        outputs=(Tensor(name=OUTPUT, datatype="FP32", shape=(len(spec.labels),)),),
        preprocessing=Preprocessing(
            layout=spec.preprocessing.layout,
            mean=spec.preprocessing.mean,
            scale=spec.preprocessing.scale,
        ),
        opset=OPSET,
        architecture=Architecture(name=spec.architecture, options=dict(spec.options)),
        tolerances=tolerances_of(spec),
        figures=figures,
        files={path: hashlib.sha256(content).hexdigest() for path, content in files.items()},
        built_with=_versions(),
    )


def publish(repository: Path, manifest: Manifest, files: dict[str, bytes]) -> Path:
    """Put an artifact into the repository in one step and return its folder.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    repository.mkdir(parents=True, exist_ok=True)
    target = repository / manifest.name
    with tempfile.TemporaryDirectory(prefix=f".{manifest.name}.", dir=repository) as scratch:
        fresh = Path(scratch) / manifest.name
        for path, content in files.items():
            _write(fresh / path, content)
        _write(fresh / str(manifest.version) / artifact.MANIFEST_FILE, manifest.to_json().encode())
        for folder in (fresh / str(manifest.version), fresh):
            _sync(folder)
        if target.exists():
            exchange(fresh, target)
        else:
            fresh.rename(target)
        _sync(repository)
    return target


def exchange(first: Path, second: Path) -> None:
    """Let two folders of one file system change places, in one step where the system can.

    Linux can (renameat2, since 3.15); where the file system cannot, `second` is away for an
    instant.

    Raises:
        OSError: neither way works.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
    )
    if not failed:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(second))
    aside = first.with_name(f"{first.name}.old")
    second.rename(aside)
    first.rename(second)
    aside.rename(first)


def remove_leftovers(repository: Path) -> None:
    """Delete the temporary folders of builds that were killed."""
    for folder in repository.glob(".*.*"):
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str]:
    found = {}
    for package in BUILT_WITH:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
