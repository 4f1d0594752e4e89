"""The Rollout dashboard: the versions of one model side by side."""

from grafana_foundation_sdk.builders import dashboard, timeseries
from grafana_foundation_sdk.models import units

from deploy.grafana.overview import REQUESTS, models_table
from deploy.grafana.panels import (
    COMPANION_JOB,
    HALF,
    JOB,
    QUARTER,
    SERVED_MODEL,
    THIRD,
    Panel,
    Row,
    board,
    chosen,
    dashed,
    graph,
    labelled,
    now,
    painted,
    rows_of,
    series,
    stacked,
)
from deploy.grafana.promql import CHECKED, LOST, REQUESTED, SERVED, mean, quantile, rate
from deploy.grafana.validation import against_tolerance, verdict_table
from nyquist.companion.watch import names as companion
from nyquist.server.telemetry import names as server

VERSION = "v{{version}}"
PAIR = "v{{version}} beside v{{baseline}}"
MOST, LEAST = "most allowed", "least allowed"
BOUNDS = {"mean": "orange", "low": "blue", "high": "blue", MOST: "red", LEAST: "red"}
SHOWN = 0.25
"""Of a share: at first a figure may be anything, which would flatten all that follows."""
DECISIONS = {"promote": "green", "hold": "red", "not_enough_yet": "purple"}


def versions() -> list[Panel]:
    """Return what each version is, and what the companion says of it."""
    return [models_table().span(2 * THIRD), verdict_table().span(THIRD)]


def candidate() -> list[Panel]:
    """Return what the companion finds on live traffic while two versions are served."""
    decision = rows_of(
        "Decision",
        units.String,
        "Whether the highest version may replace the one below it, by the pictures of live traffic "
        "that both answered. Empty while one version is served.",
        now(f"{companion.ROLLOUT_DECISION}{{{CHECKED}}} == 1"),
        {"version": "candidate", "baseline": "baseline", "decision": "decision"},
    )
    return [
        labelled(decision, "decision", DECISIONS).span(THIRD),
        graph(
            "Pictures compared",
            units.Number,
            "Pictures that both versions answered, and moved by a pixel too.",
            series(f"max by (version, baseline) ({companion.ROLLOUT_PICTURES}{{{CHECKED}}})", PAIR),
        ),
        graph(
            "Latency of both, median",
            units.Seconds,
            "Requests of the companion to either version, one after the other.",
            series(f"max by (of) ({companion.ROLLOUT_LATENCY}{{{CHECKED}}})", "{{of}}"),
        ),
        bounds(
            "Answers that differ",
            "disagreement",
            "Share of the pictures that the candidate answers differently.",
        ),
        bounds(
            "More answers that flip",
            "flips",
            "How much more often the candidate's answer changes when a picture moves by a pixel.",
        ).min(-SHOWN),
        bounds(
            "Difference of confidence",
            "confidence",
            "Mean probability of the candidate's answer, less the baseline's; it may lie as far "
            "below 0 as above.",
        )
        .with_target(
            series(
                f'-max by (figure) ({companion.ROLLOUT_LIMIT}{{{CHECKED}, figure="confidence"}})',
                LEAST,
            ).ref_id("C")
        )
        .min(-SHOWN),
        bounds(
            "Requests that are slower",
            "latency",
            "Share of the requests that take longer by more than is allowed: at a half, the median "
            "does.",
        ).max(1),
    ]


def bounds(title: str, figure: str, description: str) -> timeseries.Panel:
    """Return a graph of a figure of a candidate, of what it may still be, and of its limit."""
    which = f'{CHECKED}, figure="{figure}"'
    panel = graph(
        title,
        units.PercentUnit,
        f"{description} The mean so far, the bounds of what it may be, which hold whenever one "
        "looks, and the most that is allowed.",
        series(f"max by (bound) ({companion.ROLLOUT_FIGURE}{{{which}}})", "{{bound}}"),
        series(f"max by (figure) ({companion.ROLLOUT_LIMIT}{{{which}}})", MOST),
    )
    return dashed(painted(panel, BOUNDS), "allowed").span(QUARTER).max(SHOWN)


def traffic() -> list[Panel]:
    """Return how many requests each version answers."""
    answered = rate(f"{REQUESTS}_count", "version", REQUESTED)
    return [
        graph(
            "Latency p50",
            units.Seconds,
            "Half of the requests were answered faster.",
            series(quantile(0.5, REQUESTS, "version", REQUESTED), VERSION),
        ),
        graph(
            "Latency p99",
            units.Seconds,
            "99 of 100 requests were answered faster.",
            series(quantile(0.99, REQUESTS, "version", REQUESTED), VERSION),
        ),
        graph(
            "Mean time in infer",
            units.Seconds,
            "The network itself, once a batch: what a new version costs when the load is the same.",
            series(
                mean(server.STAGE_DURATION, "version", f'{SERVED}, stage="infer"'),
                VERSION,
            ),
        ),
        stacked(
            graph(
                "Requests",
                units.RequestsPerSecond,
                "Answered, by version.",
                series(answered, VERSION),
            )
        ),
        graph(
            "Requests lost",
            units.PercentUnit,
            "Share of the requests that the server owed an answer and gave none.",
            series(_share_rejected(LOST), VERSION),
        ),
        graph(
            "Requests that were invalid",
            units.PercentUnit,
            "Share of all requests that the version refused: callers that do not know its inputs.",
            series(_share_rejected('reason="invalid"'), VERSION),
        ),
    ]


def _share_rejected(where: str) -> str:
    part = rate(server.REJECTED, "version", f"{REQUESTED}, {where}")
    answered = rate(f"{REQUESTS}_count", "version", REQUESTED)
    return f"{part} / ({part} + {answered}) >= 0"


def correctness() -> list[Panel]:
    """Return how far each version is from its PyTorch network, and whether its answers hold."""
    circular = f'{CHECKED}, protocol="circular"'
    return [
        against_tolerance(
            "Parity error",
            companion.PARITY_RELATIVE_ERROR,
            companion.PARITY_TOLERANCE,
            "Largest difference of a logit from PyTorch's, as a share of the logits' spread, on "
            "the reference pictures; each version against its own reference and tolerance.",
            "version",
            VERSION,
        ).span(HALF),
        dashed(
            graph(
                "Circular shift consistency",
                units.PercentUnit,
                "Pairs of circular shifts with the same answer, and what the manifest allows at "
                "least.",
                series(
                    f"min by (version, source) ({companion.CONSISTENCY}{{{circular}}})",
                    "v{{version}} {{source}}",
                ),
                series(
                    f"max by (version) ({companion.CONSISTENCY_TOLERANCE}{{{CHECKED}}})",
                    "v{{version}} tolerance",
                ),
            ),
            "tolerance",
        )
        .span(HALF)
        .max(1),
    ]


def rollout() -> dashboard.Dashboard:
    """Return the dashboard, with data source, server, companion and one model as its variables."""
    return board(
        "Nyquist rollout",
        "nyquist-rollout",
        "The versions of one model side by side: what they are, how fast, how well, how right.",
        [chosen(*JOB), chosen(*COMPANION_JOB), chosen(*SERVED_MODEL, several=False)],
        [
            Row("Versions", versions()),
            Row("Candidate on live traffic", candidate()),
            Row("Latency, traffic and errors", traffic()),
            Row("Parity and consistency", correctness()),
        ],
    )
