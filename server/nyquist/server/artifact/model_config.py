"""What Nyquist reads of a model's config.pbtxt, in the schema that Triton documents."""

import logging
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message

from nyquist.server.runtime.session_settings import read_max_run_s, read_sessions
from nyquist.server.scheduling.request_queue import (
    DEFAULT_MAX_QUEUE_SIZE,
    DEFAULT_MAX_RUN_S,
    BatchLimits,
    QueuePolicy,
)
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb

PLATFORM = "onnxruntime_onnx"
MOST_PRIORITY_LEVELS = 100
HONOURED = {
    "": {
        "name", "platform", "max_batch_size", "input", "output", "dynamic_batching",
        "instance_group", "optimization", "parameters", "version_policy",
    },
    "optimization": {"graph", "execution_accelerators"},
    "instance_group": {"name", "kind", "count", "gpus"},
}  # fmt: skip

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
    try:
        _check_batching(config)
        read_sessions(config)
        read_max_run_s(config)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    if ignored := sorted(set(_ignored(config))):
        logger.warning("%s: not read: %s", path, ", ".join(ignored))
    return config


def batch_limits(config: pb.ModelConfig) -> BatchLimits:
    """Return how the model's requests may be put together; the configuration is checked."""
    batching = config.dynamic_batching
    levels = batching.priority_levels or 1
    special = batching.priority_queue_policy
    max_run_s = read_max_run_s(config)
    return BatchLimits(
        max_batch_size=config.max_batch_size,
        merge=config.HasField("dynamic_batching"),
        max_queue_delay_s=batching.max_queue_delay_microseconds / 1e6,
        preferred_sizes=tuple(sorted(set(batching.preferred_batch_size))),
        preserve_ordering=batching.preserve_ordering,
        levels=tuple(
            _queue_policy(special.get(level, batching.default_queue_policy))
            for level in range(1, levels + 1)
        ),
        default_level=batching.default_priority_level or 1,
        max_run_s=DEFAULT_MAX_RUN_S if max_run_s is None else max_run_s,
    )


def _queue_policy(policy: pb.ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_size=policy.max_queue_size or DEFAULT_MAX_QUEUE_SIZE,
        timeout_s=policy.default_timeout_microseconds / 1e6,
        delay=policy.timeout_action == pb.ModelQueuePolicy.DELAY,
        override=policy.allow_timeout_override,
    )


def _check_batching(config: pb.ModelConfig) -> None:
    """Refuse what Triton refuses."""
    batching, most = config.dynamic_batching, config.max_batch_size
    for size in batching.preferred_batch_size:
        if not 1 <= size <= most:
            raise ArtifactError(f"preferred_batch_size has {size}, choices are 1 to {most}")
    levels = batching.priority_levels
    if levels > MOST_PRIORITY_LEVELS:
        raise ArtifactError(f"priority_levels is {levels}, most is {MOST_PRIORITY_LEVELS}")
    if levels and not 1 <= batching.default_priority_level <= levels:
        raise ArtifactError(
            f"default_priority_level is {batching.default_priority_level}, "
            f"choices are 1 to {levels}"
        )
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            raise ArtifactError(f"priority_queue_policy has {level}, priority_levels is {levels}")
    if batching.preserve_ordering:
        _check_order(batching)


def _check_order(batching: pb.ModelDynamicBatching) -> None:
    if batching.priority_levels > 1:
        raise ArtifactError(
            f"preserve_ordering contradicts priority_levels {batching.priority_levels}; "
            "one level keeps the order"
        )
    for policy in (batching.default_queue_policy, *batching.priority_queue_policy.values()):
        if policy.default_timeout_microseconds and policy.timeout_action == policy.DELAY:
            raise ArtifactError("preserve_ordering contradicts timeout_action DELAY; use REJECT")


def _ignored(message: Message, place: str = "") -> Iterator[str]:
    """Name the fields that are set and not read, each with where it stands."""
    for field, value in message.ListFields():
        name = f"{place}.{field.name}".lstrip(".")
        if field.name not in HONOURED[place]:
            yield name
        elif name in HONOURED:
            for part in value if field.is_repeated else (value,):
                yield from _ignored(part, name)
