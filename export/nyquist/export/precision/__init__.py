"""The same graph in fewer bits: pure functions from ONNX bytes to ONNX bytes."""
