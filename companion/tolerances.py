"""What a manifest allows, and what is beyond it, in words."""

from collections.abc import Iterator

from companion.parity import Parity
from companion.shift_consistency import Consistency
from server.manifest import Tolerances


def misses(
    tolerances: Tolerances, parity: Parity, consistency: Consistency | None
) -> Iterator[str]:
    """Say what is beyond the tolerances.

    Args:
        tolerances: of the manifest.
        parity: of the served graph against PyTorch.
        consistency: of the served graph under circular shifts; None where it is not known yet.
    """
    if not parity.relative_error <= tolerances.parity:
        yield (
            f"parity: logits differ by {parity.relative_error:.2g} of their spread "
            f"({parity.max_abs_error:.2g}), at most {tolerances.parity:.2g} is allowed"
        )
    if consistency and consistency.share < tolerances.consistency:
        yield (
            f"shift consistency is {consistency.share:.2%}, "
            f"at least {tolerances.consistency:.2%} is required"
        )
