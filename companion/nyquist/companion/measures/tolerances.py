"""What a manifest allows, and what is beyond it, in words."""

from collections.abc import Iterator


def parity_misses(relative_error: float, max_abs_error: float, tolerance: float) -> Iterator[str]:
    """Say how far a parity is beyond its tolerance, if it is; a NaN is."""
    if not relative_error <= tolerance:
        yield (
            f"parity: answers differ by {relative_error:.2g} of their spread "
            f"({max_abs_error:.2g}), at most {tolerance:.2g} is allowed"
        )


def consistency_misses(share: float, tolerance: float) -> Iterator[str]:
    """Say how far a consistency under circular shifts is below its tolerance, if it is."""
    if share < tolerance:
        yield f"shift consistency is {share:.2%}, at least {tolerance:.2%} is required"
