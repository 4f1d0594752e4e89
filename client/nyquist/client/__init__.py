"""A client of any Open Inference Protocol server."""
