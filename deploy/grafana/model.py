"""The Model dashboard: one model from its queue to its batches, and what runs it."""

from itertools import pairwise

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import units

from deploy.grafana.overview import REQUESTS, models_table
from deploy.grafana.panels import (
    FULL,
    JOB,
    QUARTER,
    REASON_COLORS,
    SERVED_MODEL,
    Panel,
    Row,
    board,
    chosen,
    graph,
    limited,
    painted,
    series,
    stacked,
)
from deploy.grafana.promql import REQUESTED, SERVED, mean, quantile, rate, total
from nyquist.server.telemetry import names as server

STAGE = server.STAGE_DURATION
BATCH = server.BATCH_SIZE


def latency() -> list[Panel]:
    """Return how long requests take as a whole."""
    return [
        graph(
            "Latency",
            units.Seconds,
            "From the bytes of a request to those of its answer, network left out.",
            *(
                series(
                    quantile(percent / 100, REQUESTS, "version", REQUESTED),
                    f"v{{{{version}}}} p{percent}",
                )
                for percent in (50, 95, 99)
            ),
        ),
        graph(
            "Requests",
            units.RequestsPerSecond,
            "Answered, by version.",
            series(rate(f"{REQUESTS}_count", "version", REQUESTED), "v{{version}}"),
        ),
        stacked(
            graph(
                "Requests by latency",
                units.RequestsPerSecond,
                "Answers within 10 ms, 50 ms and 250 ms (the objective of most models), and those "
                "that took longer.",
                *_by_latency(("10 ms", "0.01"), ("50 ms", "0.05"), ("250 ms", "0.25")),
            )
        ),
    ]


def _by_latency(*edges: tuple[str, str]) -> list[prometheus.Dataquery]:
    """Return a query for the answers between each edge of the histogram and the one before."""
    within = {
        words: f'sum(rate({REQUESTS}_bucket{{{REQUESTED}, le="{edge}"}}[$__rate_interval]))'
        for words, edge in (*edges, ("longer", "+Inf"))
    }
    words, expressions = list(within), list(within.values())
    differences = [
        expressions[0],
        *(f"{upper} - {lower}" for lower, upper in pairwise(expressions)),
    ]
    return [series(one, word) for word, one in zip(words, differences, strict=True)]


def stages() -> list[Panel]:
    """Return where the time of a request goes."""
    return [
        stacked(
            graph(
                "Mean time by stage",
                units.Seconds,
                "decode -> queue -> batch -> infer -> encode. Batch and infer are timed once a "
                "batch, the others once a request.",
                series(mean(STAGE, "stage"), "{{stage}}"),
            )
        ),
        graph(
            "p99 by stage",
            units.Seconds,
            "99 of 100 passed the stage faster. infer is the network itself; queue grows with the "
            "load.",
            series(quantile(0.99, STAGE, "stage"), "{{stage}}"),
        ),
        graph(
            "Instances busy",
            units.Number,
            "Time in infer, per second: 1 is one session that computes without a pause.",
            series(rate(f"{STAGE}_sum", "version", f'{SERVED}, stage="infer"'), "v{{version}}"),
        ),
    ]


def batches() -> list[Panel]:
    """Return how requests ride together."""
    return [
        graph(
            "Batch size",
            units.Number,
            "Pictures that ran together, without the rows of padding.",
            series(mean(BATCH, "version"), "v{{version}} mean"),
            series(quantile(0.95, BATCH, "version"), "v{{version}} p95"),
        ).span(QUARTER),
        graph(
            "Batches",
            units.OpsPerSecond,
            "Runs of the model.",
            series(rate(f"{BATCH}_count", "version"), "v{{version}}"),
        ).span(QUARTER),
        graph(
            "Pictures",
            units.OpsPerSecond,
            "Pictures computed, without the rows of padding.",
            series(rate(f"{BATCH}_sum", "version"), "v{{version}}"),
        ).span(QUARTER),
        graph(
            "Padding",
            units.PercentUnit,
            "Empty rows among those computed, added to reach a warmed batch size. 0 on the CPU, "
            "where a batch runs at its own size.",
            series(
                f"{rate(server.PADDING_ROWS, 'version')} / "
                f"({rate(f'{BATCH}_sum', 'version')} + "
                f"{rate(server.PADDING_ROWS, 'version')}) >= 0",
                "v{{version}}",
            ),
        )
        .max(1)
        .span(QUARTER),
    ]


def queue() -> list[Panel]:
    """Return who waits, and who was sent away."""
    return [
        graph(
            "Queue depth",
            units.Number,
            "Requests that wait for the model, and those that were taken in and not answered.",
            series(total(server.QUEUE_DEPTH, "version"), "v{{version}} queued"),
            series(total(server.INFLIGHT, "version"), "v{{version}} in flight"),
        ).span(QUARTER),
        limited(
            graph(
                "Queue, share of its limit",
                units.PercentUnit,
                "At 100 % requests are refused; NyquistQueueFilling fires at 80 %.",
                series(
                    f"max by (version) ({server.QUEUE_DEPTH}{{{SERVED}}} / "
                    f"{server.QUEUE_LIMIT}{{{SERVED}}})",
                    "v{{version}}",
                ),
            ),
            (0.8, "red"),
        )
        .max(1)
        .span(QUARTER),
        graph(
            "Time in the queue",
            units.Seconds,
            "How long requests waited before they ran.",
            *(
                series(
                    quantile(percent / 100, STAGE, where=f'{SERVED}, stage="queue"'),
                    f"p{percent}",
                )
                for percent in (50, 95, 99)
            ),
        ).span(QUARTER),
        painted(
            stacked(
                graph(
                    "Rejected by reason",
                    units.RequestsPerSecond,
                    "invalid and cancelled are the caller's; the others are requests that the "
                    "server lost.",
                    series(rate(server.REJECTED, "reason", REQUESTED), "{{reason}}"),
                )
            ),
            REASON_COLORS,
        ).span(QUARTER),
    ]


def runtime() -> list[Panel]:
    """Return what runs the model, and how it was loaded."""
    return [
        models_table().span(FULL),
        graph(
            "Ready",
            units.Number,
            "1 while the version takes requests, for each server.",
            series(f"{server.MODEL_READY}{{{SERVED}}}", "{{instance}} v{{version}}"),
        )
        .max(1)
        .decimals(0),
        graph(
            "Time to load",
            units.Seconds,
            "Reading, opening and warming the version that is served.",
            series(f"{server.LOAD_DURATION}{{{SERVED}}}", "{{instance}} v{{version}}"),
        ),
        graph(
            "Loads that failed",
            units.Number,
            "As they happened; what was served before is served on. NyquistReloadFailing fires.",
            series(
                f"increase({server.LOAD_FAILURES}{{{SERVED}}}[$__rate_interval])",
                "{{instance}}",
            ),
        ),
    ]


def model() -> dashboard.Dashboard:
    """Return the dashboard, with data source, server and one model as its variables."""
    return board(
        "Nyquist model",
        "nyquist-model",
        "One model: its latency by stage, its batches, its queue, and what runs it.",
        [chosen(*JOB), chosen(*SERVED_MODEL, several=False)],
        [
            Row("Latency and traffic", latency()),
            Row("Stages", stages()),
            Row("Batches", batches()),
            Row("Queue", queue()),
            Row("What runs", runtime()),
        ],
    )
