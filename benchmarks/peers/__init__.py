"""The peers' sides: a small onnxruntime runtime each, run in the peer's own environment."""
