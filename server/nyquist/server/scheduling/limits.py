"""How a model's requests may be put together and how they wait, as its config.pbtxt says.

The settings are those of Triton's dynamic batcher, and mean what they mean there.
"""

from dataclasses import dataclass
from functools import cached_property

from nyquist.server.runtime.session_settings import read_max_run_s
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb

MOST_PRIORITY_LEVELS = 100
DEFAULT_MAX_QUEUE_SIZE = 1024
DEFAULT_MAX_RUN_S = 120.0


@dataclass(frozen=True)
class QueuePolicy:
    """How the requests of one priority level wait.

    Attributes:
        max_size: requests that may wait; one more is refused.
        timeout_s: how long one may wait; 0 is for ever.
        delay: a request over its time is put behind the others of its level, and not refused.
        override: a request may bring a shorter timeout of its own.
    """

    max_size: int = DEFAULT_MAX_QUEUE_SIZE
    timeout_s: float = 0.0
    delay: bool = False
    override: bool = False

    def timeout_of(self, asked_s: float) -> float:
        """Return how long a request may wait that options for `asked_s`; 0 is for ever."""
        shorter = self.override and 0 < asked_s < self.timeout_s
        return asked_s if shorter else self.timeout_s


@dataclass(frozen=True)
class BatchLimits:
    """How requests may be put together, and how they wait for it.

    Attributes:
        max_batch_size: pictures in one run.
        merge: whether requests share a run at all.
        max_queue_delay_s: how long the first request of a batch waits for company while an
            instance is free; 0 takes what is there.
        preferred_sizes: batches of these sizes are run at once, and made where they can be.
        preserve_ordering: answers leave in the order in which their requests were taken to run.
        levels: a policy for each priority level, the highest first.
        default_level: of a request without a priority, from 1.
        max_run_s: after which a run is given up, which none should reach; 0 is never.
        best_size: pictures in one run from which on more do not make it cheaper; 0 is the largest.
        keeps_busy: instances that the event loop keeps busy with requests of one picture each, and
            with others as many times more as those have pictures; 0 is all.
        few: requests up to which the instance of low latency answers all of them sooner than an
            instance for each.
    """

    max_batch_size: int
    merge: bool = True
    max_queue_delay_s: float = 0.0
    preferred_sizes: tuple[int, ...] = ()
    preserve_ordering: bool = False
    levels: tuple[QueuePolicy, ...] = (QueuePolicy(),)
    default_level: int = 1
    max_run_s: float = DEFAULT_MAX_RUN_S
    best_size: int = 0
    keeps_busy: float = 0.0
    few: int = 1

    def level_of(self, priority: int) -> int:
        """Return the level of a request: the default one without a priority, or too high a one."""
        return priority if 1 <= priority <= len(self.levels) else self.default_level

    @cached_property
    def timed(self) -> bool:
        """Whether a request may wait only so long, at any level."""
        return any(level.timeout_s for level in self.levels)

    @cached_property
    def full_size(self) -> int:
        """Pictures that end the wait for company."""
        return max(self.preferred_sizes, default=self.run_size)

    @cached_property
    def run_size(self) -> int:
        """Pictures up to which a run is filled. A request of more runs alone."""
        if self.preferred_sizes or not self.best_size:
            return self.max_batch_size
        return self.best_size


def batch_limits(config: pb.ModelConfig) -> BatchLimits:
    """Return how the requests of a model may be put together.

    Raises:
        ArtifactError: a value contradicts another, or is one that Triton refuses too.
    """
    _check_batching(config)
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
