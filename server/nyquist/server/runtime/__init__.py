"""onnxruntime sessions: planned, opened, tried out, run."""
