"""What a candidate may do otherwise than the version that it is to replace. Needs no numpy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a candidate may do otherwise than the version that it is to replace.

    Attributes:
        disagreement: share of the pictures that it may answer differently, 0..1.
        flips: how much more often its answer may change when a picture moves by a pixel, 0..1.
        confidence: how far its mean confidence may lie from the other's, 0..1.
        latency: times as long that it may take, at the median.
        alpha: chance, at most, that the decision is ever wrong about one of these.

    Raises:
        ValueError: one is out of its range.
    """

    disagreement: float = 0.05
    flips: float = 0.01
    confidence: float = 0.05
    latency: float = 1.25
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name in ("disagreement", "flips", "confidence", "alpha"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} lies between 0 and 1, got {value}")
        if not self.latency > 1:
            raise ValueError(f"latency is more than 1 time that of the other, got {self.latency}")
