"""Nyquist, bare onnxruntime and its peers, measured in one run."""
