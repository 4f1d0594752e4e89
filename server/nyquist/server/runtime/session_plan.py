"""What onnxruntime is asked for: the operator's wishes and the model's, joined.

Execution, SessionSettings -> SessionPlan
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nyquist.server.runtime.session_settings import SessionSettings
from nyquist.server.wire.errors import StartError

Provider = Literal["auto", "cuda", "cpu"]
Asked = tuple[str, dict[str, str]]

GRAPHS = "enable_cuda_graph"
TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
SPIN_US = "20"
"""Microseconds that a thread waits awake for the next layer: waking it would take about as long."""


@dataclass(frozen=True)
class SessionPlan:
    """What onnxruntime is asked for, to the letter.

    Attributes:
        providers: execution providers with their options, the first choice first.
        entries: session configuration entries.
        intra_op_threads: of the session.
        optimization: name of a GraphOptimizationLevel.
        memory_arena: of the CPU.
        memory_pattern: whether memory is laid out as in a run before with the same shapes.
        parallel: whether branches of the graph run side by side.
        inter_op_threads: that share them out; 0 leaves it to onnxruntime.
        must: the provider without which the session is refused; empty for none.
    """

    providers: tuple[Asked, ...]
    entries: dict[str, str]
    intra_op_threads: int
    optimization: str = "ORT_ENABLE_ALL"
    memory_arena: bool = True
    memory_pattern: bool = True
    parallel: bool = False
    inter_op_threads: int = 0
    must: str = ""

    @property
    def graphs(self) -> bool:
        """Say whether CUDA graphs are asked for."""
        return any(options.get(GRAPHS) == "1" for _, options in self.providers)

    def without_graphs(self) -> "SessionPlan":
        """Return the same plan, all but CUDA graphs."""
        providers = tuple(
            (name, {**options, GRAPHS: "0"} if GRAPHS in options else options)
            for name, options in self.providers
        )
        return replace(self, providers=providers)


@dataclass(frozen=True)
class Execution:
    """What the operator asks of every session.

    Attributes:
        provider: cuda, cpu, or auto: CUDA if this onnxruntime has it, the CPU where it fails.
        require_cuda: refuse to start rather than run any node on the CPU.
        threads: intra-op threads of a session; 0 shares the cores out to a model's instances.
        processes: that share the cores.

    Raises:
        StartError: the CPU is asked for and CUDA required.
    """

    provider: Provider = "auto"
    require_cuda: bool = False
    threads: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.require_cuda and self.provider == "cpu":
            raise StartError("--require-cuda contradicts --provider cpu; ask for cuda or auto")

    def plan(self, settings: SessionSettings, available: Sequence[str], cores: int) -> SessionPlan:
        """Join what the operator and the model ask for.

        The model's number of threads wins over the operator's, --provider cpu over KIND_GPU.
        Without either, a model's instances share the cores: two sessions with all cores each are
        slower than one. Threads spin for SPIN_US between two layers and no longer: without end they
        double the CPU time of a request and starve the event loop. The process-wide thread pool of
        the Python API cannot be told so; each session has its own.

        Args:
            settings: of the model's session.
            available: providers of this onnxruntime.
            cores: that there are.

        Raises:
            StartError: CUDA is required and the model asks for the CPU.
        """
        if self.require_cuda and settings.device == "cpu":
            raise StartError("--require-cuda contradicts a model's instance_group of KIND_CPU")
        entries = {
            "session.intra_op.allow_spinning": "1",
            "session.intra_op.spin_duration_us": SPIN_US,
            "session.inter_op.allow_spinning": "0",
            **settings.entries,
        }
        if self.require_cuda:
            entries["session.disable_cpu_ep_fallback"] = "1"
        on_gpu = self.provider != "cpu" and settings.device == "gpu"
        return SessionPlan(
            providers=tuple(self._providers(settings, available)),
            entries=entries,
            intra_op_threads=settings.intra_op_threads
            or self.threads
            or max(1, cores // (settings.instances * self.processes)),
            optimization=settings.optimization,
            memory_arena=settings.memory_arena,
            memory_pattern=settings.memory_pattern,
            parallel=settings.parallel,
            inter_op_threads=settings.inter_op_threads,
            must=CUDA if self.require_cuda or on_gpu else "",
        )

    def _providers(self, settings: SessionSettings, available: Sequence[str]) -> list[Asked]:
        if not self._wants_cuda(settings, available):
            return [(CPU, {})]
        device = {"device_id": str(settings.device_id)}
        # EXHAUSTIVE stalls on every new shape, DEFAULT is up to 50 times slower on cuDNN 9
        # (microsoft/onnxruntime#22705). TF32 has ten bits of a number, and misses parity.
        cuda = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0", **device}
        tensorrt = settings.tensorrt
        if tensorrt is None:
            cuda[GRAPHS] = "1"
        cuda |= settings.cuda
        first = [] if tensorrt is None else [(TENSORRT, {**device, **tensorrt})]
        last: list[Asked] = [] if self.require_cuda else [(CPU, {})]
        return [*first, (CUDA, cuda), *last]

    def _wants_cuda(self, settings: SessionSettings, available: Sequence[str]) -> bool:
        if self.require_cuda:
            return True
        if self.provider == "cpu" or settings.device == "cpu":
            return False
        return self.provider == "cuda" or settings.device == "gpu" or CUDA in available
