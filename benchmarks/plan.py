"""What a run measures: which models, which servers, under which load, for how long.

Everything that the command line chooses is here, as plain values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

FASHION = (
    "fashion_strided", "fashion_max_pool", "fashion_avg_pool", "fashion_blur", "fashion_max_blur",
    "fashion_polyphase",
)  # fmt: skip
EFFICIENTNET = "efficientnet_lite0"
RESNET = ("resnet50_strided", "resnet50_blur")
MODELS = (*FASHION, EFFICIENTNET, *RESNET)
DETAILED = ("fashion_blur", EFFICIENTNET)
"""Models of which every server is measured at every concurrency."""

CONCURRENCIES = (1, 4, 16, 64)
TARGET_CONCURRENCY = 16
FRACTIONS = (0.2, 0.5, 0.8, 0.9)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GROWTH = "fashion_blur"


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        models: in their order.
        servers: names of contenders, without bare onnxruntime, which is always measured.
        rounds: windows of each figure; the contenders take turns in every one.
        bare_s: seconds of each batch size and setting of bare onnxruntime.
        light_s: seconds of a window for models of a millisecond or so.
        heavy_s: the same for models of many milliseconds.
        open_s: seconds of a window with Poisson arrivals, which need many for a p99.
        growth: whether to measure how cost grows, start and export too.
        attached: name, port and process id of servers that run already.
    """

    models: Sequence[str] = MODELS
    servers: Sequence[str] = ("nyquist", "echo", "mlserver", "kserve", "pytriton")
    rounds: int = 3
    bare_s: float = 0.25
    light_s: float = 0.8
    heavy_s: float = 3.0
    open_s: float = 4.0
    growth: bool = True
    attached: Sequence[tuple[str, int, int]] = ()

    def concurrencies(self, model: str, server: str) -> Sequence[int]:
        """Return the closed loops of one server on one model."""
        if server.startswith(("nyquist", "echo")) or model in DETAILED:
            return CONCURRENCIES if model in DETAILED else (1, 16, 64)
        return (TARGET_CONCURRENCY,)


FULL = Plan()
QUICK = replace(
    FULL,
    models=("fashion_strided", "fashion_blur", EFFICIENTNET),
    servers=("nyquist", "echo"),
    bare_s=0.15,
    light_s=0.5,
    heavy_s=1.5,
    open_s=2.0,
    growth=False,
)
