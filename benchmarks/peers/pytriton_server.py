"""PyTriton 0.7.0: a Python callable behind Triton, with dynamic batching.

python pytriton_server.py NAME GRAPH THREADS GRPC_PORT HTTP_PORT METRICS_PORT MAX_BATCH
"""

import os
import sys
import sysconfig

import numpy as np
from onnx_graph import Graph
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def serve(name: str, graph: Graph, ports: tuple[int, int, int], max_batch: int) -> None:
    """Serve until the process is ended."""
    grpc_port, http_port, metrics_port = ports
    shape = tuple(size if isinstance(size, int) else -1 for size in graph.input.shape[1:])

    @batch
    def infer(**pictures: np.ndarray) -> dict[str, np.ndarray]:
        return {graph.output: graph.run(pictures[graph.input.name])}

    config = TritonConfig(
        grpc_port=grpc_port, http_port=http_port, metrics_port=metrics_port, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=[Tensor(name=graph.input.name, dtype=graph.dtype, shape=shape)],
            outputs=[Tensor(name=graph.output, dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=max_batch, batcher=DynamicBatcher()),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    # Triton's Python stub has to load the library of this Python, not of another on the machine.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    name, path, threads, *ports, max_batch = sys.argv[1:]
    grpc_port, http_port, metrics_port = map(int, ports)
    serve(name, Graph(path, int(threads)), (grpc_port, http_port, metrics_port), int(max_batch))
