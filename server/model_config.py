"""What Nyquist reads of a model's config.pbtxt, in the schema that Triton documents."""

import logging
from pathlib import Path

from google.protobuf import text_format

from server.batcher import BatchLimits
from server.errors import ArtifactError
from server.pb import model_config_pb2 as pb

PLATFORM = "onnxruntime_onnx"
DEFAULT_MAX_QUEUE_SIZE = 1024
HONOURED = {"name", "platform", "max_batch_size", "input", "output", "dynamic_batching"}
HONOURED_BATCHING = {"max_queue_delay_microseconds", "default_queue_policy"}

logger = logging.getLogger(__name__)


def parse_model_config(text: str, path: Path) -> pb.ModelConfig:
    """Parse the protobuf text format.

    Raises:
        ArtifactError: the text is not of the schema, or asks for what is not served.
    """
    try:
        config = text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        raise ArtifactError(f"{path}: {error}") from error
    schedule = config.WhichOneof("scheduling_choice")
    if schedule not in (None, "dynamic_batching"):
        raise ArtifactError(f"{path}: {schedule} is not served; dynamic_batching or none is")
    if config.platform != PLATFORM:
        raise ArtifactError(f"{path}: platform is {config.platform!r}, served is {PLATFORM!r}")
    if config.max_batch_size < 1:
        raise ArtifactError(f"{path}: max_batch_size is {config.max_batch_size}, least is 1")
    _warn_of_ignored(config, path)
    return config


def batch_limits(config: pb.ModelConfig) -> BatchLimits:
    """Return how the model's requests may be put together."""
    batching = config.dynamic_batching
    return BatchLimits(
        max_batch_size=config.max_batch_size,
        merge=config.HasField("dynamic_batching"),
        max_queue_delay_s=batching.max_queue_delay_microseconds / 1e6,
        max_queue_size=batching.default_queue_policy.max_queue_size or DEFAULT_MAX_QUEUE_SIZE,
    )


def _warn_of_ignored(config: pb.ModelConfig, path: Path) -> None:
    ignored = {field.name for field, _ in config.ListFields()} - HONOURED
    batching = {field.name for field, _ in config.dynamic_batching.ListFields()}
    ignored |= {f"dynamic_batching.{name}" for name in batching - HONOURED_BATCHING}
    if ignored:
        logger.warning("%s: not read: %s", path, ", ".join(sorted(ignored)))
