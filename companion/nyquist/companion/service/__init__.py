"""nyquist.v1 over gRPC, and the same checks from a command line."""
