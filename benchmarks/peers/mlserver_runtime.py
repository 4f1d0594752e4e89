"""MLServer 1.7.1: a runtime of the class that its documentation asks for.

MLServer finds it by the name in model-settings.json; raw contents arrive as bytes.
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_graph import Graph


class OnnxRuntime(MLModel):
    """One graph, in the server's own process."""

    async def load(self) -> bool:
        """Open the graph that the settings name."""
        parameters = self.settings.parameters
        self._graph = Graph(parameters.uri, parameters.extra["threads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request, or the batch that MLServer has made of several."""
        batch = NumpyCodec.decode_input(payload.inputs[0])
        logits = self._graph.run(np.ascontiguousarray(batch))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(self._graph.output, logits)]
        )
