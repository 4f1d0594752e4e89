"""The ways onnxruntime may run a graph on the CPU."""

import os
from dataclasses import dataclass

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in nyquist.server.runtime.engine
import onnxruntime as ort

from nyquist.server.runtime.session_plan import CPU


@dataclass(frozen=True)
class Way:
    """How onnxruntime runs a graph.

    Attributes:
        optimised: whether it rewrites the graph first (all its levels, or none).
        threads: intra-op.
    """

    optimised: bool
    threads: int

    def __str__(self) -> str:
        plural = "" if self.threads == 1 else "s"
        return f"{'' if self.optimised else 'not '}optimised, {self.threads} thread{plural}"


def open_session(graph: bytes, way: Way) -> ort.InferenceSession:
    """Open a graph on the CPU, without spinning threads."""
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        level.ORT_ENABLE_ALL if way.optimised else level.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = way.threads
    options.log_severity_level = 4  # what fails is raised, and told in the caller's words
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(graph, options, providers=[CPU])
