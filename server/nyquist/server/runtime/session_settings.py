"""What a model's config.pbtxt asks of its sessions: placement, threads, provider options.

The keys are those of Triton's onnxruntime backend and of onnxruntime itself. Each is checked here,
because onnxruntime takes a wrong session key, and on a machine without a GPU any CUDA option, in
silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb

MOST_INSTANCES = 64
"""Of a model: each is a thread, and has the weights in memory."""

Device = Literal["auto", "gpu", "cpu"]
Options = Mapping[str, str]


@dataclass(frozen=True)
class SessionSettings:
    """One session of a model.

    Attributes:
        device: where it runs; auto leaves that to the operator's choice of provider.
        device_id: of the GPU.
        instances: sessions that the model has, which share the cores.
        intra_op_threads: 0 shares the cores out.
        parallel: whether branches of the graph run side by side.
        inter_op_threads: that share them out; 0 leaves it to onnxruntime.
        entries: onnxruntime's session configuration entries.
        cuda: options of the CUDA execution provider.
        tensorrt: options of the TensorRT execution provider; None leaves it out.
        optimization: of the graph, as onnxruntime calls the level.
        memory_arena: whether the CPU's memory is kept for the next run.
        memory_pattern: whether memory is laid out as in a run before with the same shapes.
        batch_sizes: that batches should have, beside the buckets.
    """

    device: Device = "auto"
    device_id: int = 0
    instances: int = 1
    intra_op_threads: int = 0
    parallel: bool = False
    inter_op_threads: int = 0
    entries: Options = field(default_factory=dict)
    cuda: Options = field(default_factory=dict)
    tensorrt: Options | None = None
    optimization: str = "ORT_ENABLE_ALL"
    memory_arena: bool = True
    memory_pattern: bool = True
    batch_sizes: tuple[int, ...] = ()


def read_sessions(config: pb.ModelConfig) -> tuple[SessionSettings, ...]:
    """Return the settings of each session that a configuration asks for; one if it asks for none.

    Raises:
        ArtifactError: a key is unknown or its value is none; the message names the choices.
    """
    common = _common(config)
    groups = list(config.instance_group) or [pb.ModelInstanceGroup()]
    placed = [place for group in groups for place in _placements(group)]
    if len(placed) > MOST_INSTANCES:
        raise ArtifactError(
            f"instance_group asks for {len(placed)} instances, most is {MOST_INSTANCES}"
        )
    return tuple(
        replace(common, device=device, device_id=device_id, instances=len(placed))
        for device, device_id in placed
    )


def read_max_run_s(config: pb.ModelConfig) -> float | None:
    """Return the seconds that a configuration allows a run; None where it does not say.

    Raises:
        ArtifactError: that is no number.
    """
    given = {key: parameter.string_value for key, parameter in config.parameters.items()}
    read = _read("parameters", given, MAX_RUN)
    return float(read["max_run_seconds"]) if read else None


@dataclass(frozen=True)
class _Option:
    """One key: onnxruntime's name for it, and its values; without values a number, at least 0."""

    name: str
    values: Options = field(default_factory=dict)

    def read(self, key: str, value: str) -> str:
        if self.values:
            if value not in self.values:
                raise ArtifactError(f"{key} is {value!r}, choices are {', '.join(self.values)}")
            return self.values[value]
        if not (value.isascii() and value.isdecimal()):
            raise ArtifactError(f"{key} is {value!r}, it takes a whole number of at least 0")
        return value


SWITCH = {"0": "0", "1": "1", "false": "0", "true": "1"}
ENTRIES = {
    key: _Option(key, SWITCH)
    for key in (
        "optimization.enable_gelu_approximation",
        "session.disable_aot_function_inlining",
        "session.disable_double_qdq_remover",
        "session.disable_prepacking",
        "session.disable_quant_qdq",
        "session.enable_quant_qdq_cleanup",
        "session.force_spinning_stop",
        "session.inter_op.allow_spinning",
        "session.intra_op.allow_spinning",
        "session.qdqisint8allowed",
        "session.set_denormal_as_zero",
        "session.strict_shape_type_inference",
        "session.use_device_allocator_for_initializers",
        "session.x64quantprecision",
    )
} | {
    key: _Option(key)
    for key in (
        "session.dynamic_block_base",
        "session.inter_op.spin_duration_us",
        "session.intra_op.spin_duration_us",
    )
}
"""Those that choose how a graph is computed; none that writes files, or reads them."""
INTRA_OP_THREADS = {"intra_op_thread_count": _Option("intra_op_thread_count")}
BRANCHES = {
    "execution_mode": _Option("execution_mode", {"0": "0", "1": "1"}),
    "inter_op_thread_count": _Option("inter_op_thread_count"),
}
MEMORY_ARENA = {key: _Option(key, SWITCH) for key in ("enable_mem_arena", "enable_mem_pattern")}
SHRINKAGE = "memory.enable_memory_arena_shrinkage"
"""Of Triton's backend; read, and not needed: what a burst took is given back here anyway."""
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": _Option(
        "cudnn_conv_algo_search",
        {
            **{"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
            **{name: name for name in ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")},
        },
    ),
    "arena_extend_strategy": _Option(
        "arena_extend_strategy",
        {
            **{"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
            **{name: name for name in ("kNextPowerOfTwo", "kSameAsRequested")},
        },
    ),
    "gpu_mem_limit": _Option("gpu_mem_limit"),
    **{
        key: _Option(key, SWITCH)
        for key in (
            "cudnn_conv_use_max_workspace",
            "do_copy_in_default_stream",
            "enable_cuda_graph",
            "prefer_nhwc",
            "use_tf32",
        )
    },
}
TENSORRT_OPTIONS = {
    "precision_mode": _Option("trt_fp16_enable", {"FP32": "0", "FP16": "1"}),
    "max_workspace_size_bytes": _Option("trt_max_workspace_size"),
    "trt_engine_cache_enable": _Option("trt_engine_cache_enable", SWITCH),
    "trt_timing_cache_enable": _Option("trt_timing_cache_enable", SWITCH),
}
MAX_RUN = {"max_run_seconds": _Option("max_run_seconds")}
PARAMETERS = {
    **ENTRIES,
    **INTRA_OP_THREADS,
    **BRANCHES,
    **MEMORY_ARENA,
    **CUDA_OPTIONS,
    **MAX_RUN,
    SHRINKAGE: _Option(SHRINKAGE),
}
ACCELERATORS = {"cuda": CUDA_OPTIONS, "tensorrt": TENSORRT_OPTIONS}
OPENVINO = "openvino"
"""Computes the same, quicker; no onnxruntime of PyPI has it."""
LEVELS = {
    -1: "ORT_ENABLE_BASIC",
    0: "ORT_ENABLE_ALL",
    1: "ORT_ENABLE_EXTENDED",
    2: "ORT_DISABLE_ALL",
}
"""`optimization.graph.level`, as Triton's onnxruntime backend counts."""
DEVICES: Mapping[int, Device] = {
    pb.ModelInstanceGroup.KIND_AUTO: "auto",
    pb.ModelInstanceGroup.KIND_MODEL: "auto",
    pb.ModelInstanceGroup.KIND_GPU: "gpu",
    pb.ModelInstanceGroup.KIND_CPU: "cpu",
}


def _common(config: pb.ModelConfig) -> SessionSettings:
    given = {key: parameter.string_value for key, parameter in config.parameters.items()}
    _check_keys("parameters", given, PARAMETERS)
    optimization = config.optimization
    level = optimization.graph.level
    if level not in LEVELS:
        raise ArtifactError(
            f"optimization.graph.level is {level}, choices are {', '.join(map(str, LEVELS))}"
        )
    accelerators = _accelerators(optimization.execution_accelerators)
    threads = _read("parameters", given, INTRA_OP_THREADS)
    branches = _read("parameters", given, BRANCHES)
    arena = _read("parameters", given, MEMORY_ARENA)
    return SessionSettings(
        intra_op_threads=int(threads.get("intra_op_thread_count", "0")),
        parallel=branches.get("execution_mode") == "1",
        inter_op_threads=int(branches.get("inter_op_thread_count", "0")),
        entries=_read("parameters", given, ENTRIES),
        cuda={**_read("parameters", given, CUDA_OPTIONS), **accelerators.get("cuda", {})},
        tensorrt=accelerators.get("tensorrt"),
        optimization=LEVELS[level],
        memory_arena=arena.get("enable_mem_arena") != "0",
        memory_pattern=arena.get("enable_mem_pattern") != "0",
        batch_sizes=tuple(config.dynamic_batching.preferred_batch_size),
    )


def _accelerators(
    accelerators: pb.ModelOptimizationPolicy.ExecutionAccelerators,
) -> dict[str, dict[str, str]]:
    where = "optimization.execution_accelerators"
    for accelerator in accelerators.cpu_execution_accelerator:
        if accelerator.name != OPENVINO:  # which the log says is not read
            raise ArtifactError(f"{where}: {accelerator.name!r} is not served on the CPU; none is")
    found = {}
    for accelerator in accelerators.gpu_execution_accelerator:
        if accelerator.name not in ACCELERATORS:
            choices = ", ".join(ACCELERATORS)
            raise ArtifactError(f"{where} names {accelerator.name!r}, choices are {choices}")
        options = ACCELERATORS[accelerator.name]
        _check_keys(f"{where}.{accelerator.name}", accelerator.parameters, options)
        found[accelerator.name] = _read(
            f"{where}.{accelerator.name}", accelerator.parameters, options
        )
    return found


def _check_keys(where: str, given: Options, known: Mapping[str, _Option]) -> None:
    for key in given:
        if key not in known:
            raise ArtifactError(f"{where} has {key!r}, choices are {', '.join(sorted(known))}")


def _read(where: str, given: Options, known: Mapping[str, _Option]) -> dict[str, str]:
    return {
        option.name: option.read(f"{where}.{key}", given[key])
        for key, option in known.items()
        if key in given
    }


def _placements(group: pb.ModelInstanceGroup) -> list[tuple[Device, int]]:
    """Return device and GPU of each instance of a group; `count` of them on each of its GPUs."""
    if group.kind not in DEVICES:
        raise ArtifactError(
            f"instance_group.kind is {group.kind}, "
            "choices are KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL"
        )
    if not 0 <= group.count <= MOST_INSTANCES:
        raise ArtifactError(
            f"instance_group.count is {group.count}, choices are 1 to {MOST_INSTANCES}"
        )
    if group.gpus and group.kind == pb.ModelInstanceGroup.KIND_CPU:
        raise ArtifactError("instance_group.gpus contradicts KIND_CPU")
    if min(group.gpus, default=0) < 0:
        raise ArtifactError(f"instance_group.gpus has {min(group.gpus)}, least is 0")
    gpus = list(group.gpus) or [0]
    return [(DEVICES[group.kind], gpu) for gpu in gpus for _ in range(group.count or 1)]
