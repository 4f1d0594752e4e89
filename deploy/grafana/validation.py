"""The Validation dashboard: does the served graph compute what PyTorch does, and does it hold?"""

from grafana_foundation_sdk.builders import dashboard, table, timeseries
from grafana_foundation_sdk.models import units

from deploy.grafana.panels import (
    COMPANION_JOB,
    HALF,
    JOB,
    QUARTER,
    SERVED_MODEL,
    Panel,
    Row,
    board,
    chosen,
    dashed,
    graph,
    grid_of,
    labelled,
    logarithmic,
    now,
    painted,
    rows_of,
    series,
    stacked,
)
from deploy.grafana.promql import CHECKED, COMPANION, quantile, rate
from nyquist.companion.watch import names as companion
from nyquist.server.telemetry import names as server

PROBED = f'{CHECKED}, source="probe"'
TIMED = companion.REFERENCE_DURATION
PROBES_APART = "2m"
"""Least step of what only probes count: one a minute would leave gaps in a finer line."""
VERDICTS = {
    **{"healthy": "green", "measuring": "blue"},
    **{"degraded": "orange", "failing": "red", "unverifiable": "purple"},
}


def verdicts() -> list[Panel]:
    """Return what the companion says of each model, and whether it is awake."""
    return [
        verdict_table(),
        painted(
            stacked(
                graph(
                    "Models by verdict",
                    units.Number,
                    "Versions of the chosen models by the verdict that holds for them.",
                    series(f"sum by (verdict) ({companion.VERDICT}{{{CHECKED}}})", "{{verdict}}"),
                )
            ),
            VERDICTS,
        ).span(QUARTER),
        painted(
            stacked(
                graph(
                    "Probes by outcome",
                    units.OpsPerSecond,
                    "Rounds of the companion. One that failed has measured nothing: the server did "
                    "not answer, for one.",
                    series(rate(companion.PROBES, "outcome", COMPANION), "{{outcome}}"),
                )
            ),
            {"ok": "green", "failed": "red"},
        ).span(QUARTER),
    ]


def verdict_table() -> table.Panel:
    """Return the table of verdicts, with the age of the last probe."""
    keys = "job, instance, model, version"
    query = (
        f"(time() - {companion.LAST_PROBE}{{{CHECKED}}}) * on ({keys}) "
        f"group_right () ({companion.VERDICT}{{{CHECKED}}} == 1)"
    )
    panel = rows_of(
        "Verdicts",
        units.Seconds,
        "What the companion says of each version that is served, and how long ago it last looked.",
        now(query),
        {"model": "model", "version": "version", "verdict": "verdict", "Value": "last probe"},
    )
    return labelled(panel, "verdict", VERDICTS)


def parity() -> list[Panel]:
    """Return how far the served graph is from the network that was trained."""
    return [
        against_tolerance(
            "Parity error",
            companion.PARITY_RELATIVE_ERROR,
            companion.PARITY_TOLERANCE,
            "Largest difference of a logit from PyTorch's, as a share of the logits' spread, on "
            "the reference pictures. Above its tolerance NyquistParityBroken fires.",
            "model",
            "{{model}}",
        ).span(HALF),
        graph(
            "Answers that agree",
            units.PercentUnit,
            "Pictures for which server and PyTorch name the same class, on reference pictures "
            "(probe) and live traffic (shadow).",
            series(
                f"min by (model, source) ({companion.PARITY_AGREEMENT}{{{CHECKED}}})",
                "{{model}} {{source}}",
            ),
        )
        .span(HALF)
        .max(1),
        graph(
            "Parity error on live traffic",
            units.ScientificNotation,
            "The same as a share of the logits' spread, for the requests that the server mirrored.",
            series(
                f'max by (model) ({companion.PARITY_RELATIVE_ERROR}{{{CHECKED}, source="shadow"}})',
                "{{model}}",
            ),
        ),
        graph(
            "Largest absolute error",
            units.ScientificNotation,
            "Largest difference of a logit from PyTorch's, in the logits' own unit.",
            series(
                f"max by (model, source) ({companion.PARITY_MAX_ABS_ERROR}{{{CHECKED}}})",
                "{{model}} {{source}}",
            ),
        ),
        graph(
            "Mean absolute error",
            units.ScientificNotation,
            "Mean difference of a logit from PyTorch's, in the logits' own unit.",
            series(
                f"max by (model, source) ({companion.PARITY_MEAN_ABS_ERROR}{{{CHECKED}}})",
                "{{model}} {{source}}",
            ),
        ),
    ]


def against_tolerance(
    title: str, measure: str, tolerance: str, description: str, by: str, legend: str
) -> timeseries.Panel:
    """Return a graph of what the probe measured, and of what the manifest allows, by a label."""
    panel = graph(
        title,
        units.ScientificNotation,
        description,
        series(f"max by ({by}) ({measure}{{{PROBED}}})", legend),
        series(f"max by ({by}) ({tolerance}{{{CHECKED}}})", f"{legend} tolerance"),
    )
    return dashed(logarithmic(panel), "tolerance")


def consistency() -> list[Panel]:
    """Return how often the answer stays when the picture moves."""
    ratio = companion.CONSISTENCY
    circular = f'{ratio}{{{CHECKED}, source="probe", protocol="circular"}}'
    return [
        grid_of(
            "Shift consistency by protocol",
            units.PercentUnit,
            "Pairs of shifts with the same answer, on the reference pictures. "
            "docs/shift-consistency.md says what each protocol moves, and how far.",
            now(f"min by (model, protocol) ({ratio}{{{PROBED}}})"),
            "model",
            "protocol",
        ),
        graph(
            "Circular consistency above its tolerance",
            units.PercentUnit,
            "Measured minus what the manifest allows at least. Below 0 NyquistConsistencyDropped "
            "fires.",
            series(
                f"min by (model) ({circular} - on (job, instance, model, version) group_left () "
                f"{companion.CONSISTENCY_TOLERANCE}{{{CHECKED}}})",
                "{{model}}",
            ),
        ).span(HALF),
        graph(
            "Trials of shifts that were made",
            units.PercentUnit,
            "Of a new graph: until all were made the companion is measuring, and shows no figure "
            "of that protocol here. Longer than an hour, and NyquistStillMeasuring fires.",
            series(
                f"min by (model, protocol) ({companion.CONSISTENCY_PROGRESS}{{{CHECKED}}})",
                "{{model}} {{protocol}}",
            ),
        )
        .span(HALF)
        .max(1),
        graph(
            "Consistency on live traffic",
            units.PercentUnit,
            "Mirrored requests that the server answered alike when their picture was moved by a "
            "pixel.",
            series(
                f'min by (model) ({ratio}{{{CHECKED}, source="shadow"}})',
                "{{model}}",
            ),
        )
        .span(HALF)
        .max(1),
    ]


def latency() -> list[Panel]:
    """Return the time of both paths, as the companion sees them."""
    return [
        graph(
            f"p50 of a batch of {size}",
            units.Seconds,
            "The served path (onnxruntime) and PyTorch, for each model, measured by the companion "
            "beside each other. PyTorch has one thread.",
            series(
                quantile(0.5, TIMED, "model, backend", f'{CHECKED}, batch_size="{size}"'),
                "{{model}} {{backend}}",
            ),
        ).interval(PROBES_APART)
        for size in (1, 3, 8)
    ]


def shadow() -> list[Panel]:
    """Return what came of the live requests that the server mirrored."""
    return [
        graph(
            "Mirrored by the server",
            units.RequestsPerSecond,
            "Requests handed to the companion, and those dropped because it was away or too slow; "
            "callers notice neither.",
            series(rate(server.SHADOW_MIRRORED, "model"), "{{model}}"),
            series(rate(server.SHADOW_DROPPED, "model"), "{{model}} dropped"),
        ),
        graph(
            "Checked by the companion",
            units.RequestsPerSecond,
            "Mirrored requests that came, that were dropped because the queue was full, and that "
            "were computed again in PyTorch.",
            *(
                series(rate(counter, "model", CHECKED), f"{{{{model}}}} {what}")
                for what, counter in (
                    ("received", companion.SHADOW_RECEIVED),
                    ("dropped", companion.SHADOW_DROPPED),
                    ("checked", companion.SHADOW_CHECKED),
                )
            ),
        ),
        graph(
            "Not verifiable",
            units.RequestsPerSecond,
            "Mirrored requests to versions whose reference the companion does not have.",
            series(
                f"rate({companion.SHADOW_UNVERIFIABLE}{{{COMPANION}}}[$__rate_interval])",
                "{{instance}}",
            ),
        ),
    ]


def validation() -> dashboard.Dashboard:
    """Return the dashboard, with data source, server, companion and models as its variables."""
    return board(
        "Nyquist validation",
        "nyquist-validation",
        "Numerical parity with PyTorch and shift consistency, on reference pictures and live "
        "traffic.",
        [chosen(*JOB), chosen(*COMPANION_JOB), chosen(*SERVED_MODEL)],
        [
            Row("Verdicts", verdicts()),
            Row("Numerical parity", parity()),
            Row("Shift consistency", consistency()),
            Row("Latency of both paths", latency()),
            Row("Shadow traffic", shadow()),
        ],
    )
