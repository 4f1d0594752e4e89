"""Numerical parity and shift consistency of any function from pictures to logits. numpy alone."""
