"""PromQL of the panels: what is selected, and how it is summed.

A dashboard's variables stand in it as Grafana's: $job, $companion, $model.
"""

SERVER = 'job=~"$job"'
COMPANION = 'job=~"$companion"'
MODEL = 'model=~"$model"'
SERVED = f"{SERVER}, {MODEL}"
CHECKED = f"{COMPANION}, {MODEL}"
LIVE = 'source!~"probe|shadow"'
"""Callers' traffic: the companion's own requests are no load, and no promise was made to it."""
REQUESTED = f"{SERVED}, {LIVE}"
INFERENCE = f'{SERVER}, {LIVE}, grpc_service="inference.GRPCInferenceService"'

RANGE = "[$__rate_interval]"
NOT_IDLE = ">= 0"  # a mean or quantile of nothing is NaN, which no comparison keeps

LOST = 'reason!~"invalid|cancelled"'
"""Rejections that the server answers for: neither the caller's mistake nor the caller's leaving."""


def rate(counter: str, by: str, where: str = SERVED) -> str:
    """Return PromQL for the rate of a counter, summed by labels."""
    return f"sum by ({by}) (rate({counter}{{{where}}}{RANGE}))"


def mean(histogram: str, by: str, where: str = SERVED) -> str:
    """Return PromQL for the mean of what a histogram observed, by labels, while it did."""
    total, times = rate(f"{histogram}_sum", by, where), rate(f"{histogram}_count", by, where)
    return f"{total} / {times} {NOT_IDLE}"


def quantile(share: float, histogram: str, by: str = "", where: str = SERVED) -> str:
    """Return PromQL for a quantile of what a histogram observed, by labels, while it did."""
    buckets = rate(f"{histogram}_bucket", f"{by}, le" if by else "le", where)
    return f"histogram_quantile({share}, {buckets}) {NOT_IDLE}"


def ratio(part: str, whole: str, by: str = "") -> str:
    """Return PromQL for a share of 0..1: 0 where only the part is missing, nothing while idle.

    Both are expressions that are summed by the same labels.
    """
    none = f"0 * {whole}" if by else "vector(0)"
    return f"({part} or {none}) / {whole} {NOT_IDLE}"


def total(gauge: str, by: str, where: str = SERVED) -> str:
    """Return PromQL for a gauge, summed by labels."""
    return f"sum by ({by}) ({gauge}{{{where}}})"
