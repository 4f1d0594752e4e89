"""KServe 0.21: a custom model behind its gRPC server.

python kserve_server.py NAME GRAPH THREADS GRPC_PORT HTTP_PORT
"""

import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from onnx_graph import Graph


class OnnxModel(Model):
    """One graph, in the server's own process."""

    def __init__(self, name: str, path: str, threads: int) -> None:
        super().__init__(name)
        self._graph = Graph(path, threads)
        self.ready = True

    async def predict(self, payload: InferRequest, *_: object, **__: object) -> InferResponse:
        """Run one request on the event loop, as KServe calls it."""
        logits = self._graph.run(payload.inputs[0].as_numpy())
        output = InferOutput(self._graph.output, list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    name, path, threads, grpc_port, http_port = sys.argv[1:]
    server = ModelServer(
        http_port=int(http_port),
        grpc_port=int(grpc_port),
        workers=1,
        enable_grpc=True,
        enable_docs_url=False,
    )
    server.start([OnnxModel(name, path, int(threads))])
