"""What Nyquist reads of a model's config.pbtxt, in the schema that Triton documents."""

import logging
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message

from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
MOST_BATCH_SIZE = 65_536
HONOURED = {
    "": {
        "name", "platform", "max_batch_size", "input", "output", "dynamic_batching",
        "instance_group", "optimization", "parameters", "version_policy", "backend",
        "default_model_filename", "model_warmup",
    },
    "optimization": {"graph", "execution_accelerators"},
    "optimization.execution_accelerators": {"gpu_execution_accelerator"},
    "optimization.execution_accelerators.gpu_execution_accelerator": {"name", "parameters"},
    "instance_group": {"name", "kind", "count", "gpus"},
}  # fmt: skip

logger = logging.getLogger(__name__)


def parse_model_config(content: bytes, path: Path) -> pb.ModelConfig:
    """Parse the protobuf text format.

    Raises:
        ArtifactError: the bytes are no text, or not of the schema.
    """
    try:
        return text_format.Parse(content.decode(), pb.ModelConfig())
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is no text: {error}") from error
    except text_format.ParseError as error:
        raise ArtifactError(f"{path}: {error}") from error


def check_model_config(config: pb.ModelConfig, path: Path) -> None:
    """Refuse what is not served, and log what is set and not read.

    Raises:
        ArtifactError: the model asks for what is not served.
    """
    schedule = config.WhichOneof("scheduling_choice")
    if schedule not in (None, "dynamic_batching"):
        raise ArtifactError(f"{path}: {schedule} is not served; dynamic_batching or none is")
    if config.platform not in ("", PLATFORM):
        raise ArtifactError(f"{path}: platform is {config.platform!r}, served is {PLATFORM!r}")
    if config.backend not in ("", BACKEND):
        raise ArtifactError(f"{path}: backend is {config.backend!r}, served is {BACKEND!r}")
    if config.max_batch_size < 0:
        raise ArtifactError(f"{path}: max_batch_size is {config.max_batch_size}, least is 0")
    if config.max_batch_size > MOST_BATCH_SIZE:
        raise ArtifactError(
            f"{path}: max_batch_size is {config.max_batch_size}, most is {MOST_BATCH_SIZE}"
        )
    file = config.default_model_filename
    if file and (Path(file).name != file or file == ".."):
        raise ArtifactError(f"{path}: default_model_filename is {file!r}, which is no plain name")
    if ignored := sorted(set(_ignored(config))):
        logger.warning("%s: not read: %s", path, ", ".join(ignored))


def _ignored(message: Message, place: str = "") -> Iterator[str]:
    """Name the fields that are set and not read, each with where it stands."""
    for field, value in message.ListFields():
        name = f"{place}.{field.name}".lstrip(".")
        if field.name not in HONOURED[place]:
            yield name
        elif name in HONOURED:
            for part in value if field.is_repeated else (value,):
                yield from _ignored(part, name)
