"""Network -> ONNX graph, checked, timed and compared with its network."""
