"""Serve ONNX classifiers over gRPC: repository -> engine -> batcher -> answer. Never torch."""
