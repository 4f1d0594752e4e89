"""Write the latency dashboard for Grafana.

queries -> panels -> rows -> dashboards/latency.json; python deploy/grafana/latency.py [FILE]
"""

import json
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TypeAlias

from grafana_foundation_sdk.builders import common, dashboard, prometheus, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import (
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Panel: TypeAlias = timeseries.Panel | table.Panel

FILE = Path(__file__).parent / "dashboards" / "latency.json"
SOURCE_UID = "nyquist-prometheus"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

MODEL = '{job="nyquist", model=~"$model"}'
CALL = 'job="nyquist", grpc_service="inference.GRPCInferenceService"'
PROCESS = '{job="nyquist"}'
RANGE = "[$__rate_interval]"

THIRD, HALF = 8, 12  # of the grid's 24 columns
HEIGHT = 8

NOT_IDLE = ">= 0"  # a mean or quantile of nothing is NaN, which no comparison keeps


def total_rate(counter: str, by: str) -> str:
    """Return PromQL for the rate of a model's counter, summed by labels."""
    return f"sum by ({by}) (rate({counter}{MODEL}{RANGE}))"


def mean(histogram: str, by: str) -> str:
    """Return PromQL for the mean of what a model's histogram observed, by labels, while it did."""
    total, times = total_rate(f"{histogram}_sum", by), total_rate(f"{histogram}_count", by)
    return f"{total} / {times} {NOT_IDLE}"


def latency_quantile(quantile: float) -> str:
    """Return PromQL for a quantile of the time of a request, by model, while it has requests."""
    buckets = total_rate("nyquist_request_duration_seconds_bucket", "model, le")
    return f"histogram_quantile({quantile}, {buckets}) {NOT_IDLE}"


def series(expression: str, legend: str) -> prometheus.Dataquery:
    """Return a query over the time range of the dashboard."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).range().datasource(SOURCE)


def graph(
    title: str, unit: str, description: str, queries: Sequence[prometheus.Dataquery]
) -> timeseries.Panel:
    """Return a panel of lines over time, from zero upwards."""
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)  # noqa: FBT003 - the builder's signature
    )
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .min(0)
        .span(THIRD)
        .height(HEIGHT)
        .datasource(SOURCE)
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for letter, query in zip("ABCD", queries, strict=False):
        panel.with_target(query.ref_id(letter))
    return panel


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """Pile the series of a panel up, filled."""
    return panel.fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))


def traffic() -> list[Panel]:
    """Return the panels that callers would draw: how many requests, how fast."""
    answered = total_rate("nyquist_request_duration_seconds_count", "model")
    return [
        graph(
            "Request rate by model",
            units.RequestsPerSecond,
            "ModelInfer requests answered. Those refused or given up are in Rejected by reason.",
            [series(answered, "{{model}}")],
        ).span(HALF),
        graph(
            "Latency by model",
            units.Seconds,
            "From the bytes of a ModelInfer request to those of its answer, network left out. "
            "Quantiles are interpolated within the histogram's buckets.",
            [
                series(latency_quantile(quantile / 100), f"{{{{model}}}} p{quantile}")
                for quantile in (50, 95, 99)
            ],
        ).span(HALF),
    ]


def batching() -> list[Panel]:
    """Return the panels that say where the time goes."""
    return [
        stacked(
            graph(
                "Mean time by stage",
                units.Seconds,
                "decode -> queue -> batch -> infer -> encode, over the chosen models. Batch and "
                "infer are timed once a batch, the others once a request.",
                [series(mean("nyquist_stage_duration_seconds", "stage"), "{{stage}}")],
            )
        ),
        graph(
            "Mean batch size",
            units.Number,
            "Pictures that ran together, without the rows of padding.",
            [series(mean("nyquist_batch_size", "model"), "{{model}}")],
        ),
        graph(
            "Queue depth and requests in flight",
            units.Number,
            "Queue depth: requests that wait for the model. In flight: taken in and not answered, "
            "the waiting ones among them.",
            [
                series(f"sum by (model) (nyquist_queue_depth{MODEL})", "{{model}} queued"),
                series(f"sum by (model) (nyquist_inflight_requests{MODEL})", "{{model}} in flight"),
            ],
        ),
    ]


def results() -> list[Panel]:
    """Return the panels that say how calls ended."""
    handled = f"rate(grpc_server_handled_total{{{CALL}}}{RANGE})"
    failed = f'rate(grpc_server_handled_total{{{CALL}, grpc_code!="OK"}}{RANGE})'
    return [
        stacked(
            graph(
                "gRPC calls by status code",
                units.RequestsPerSecond,
                "Every method of the inference service, for all models: gRPC does not know which "
                "model a call is for.",
                [series(f"sum by (grpc_code) ({handled})", "{{grpc_code}}")],
            )
        ),
        graph(
            "Calls that did not end OK",
            units.PercentUnit,
            "Share of the calls of the inference service, the caller's mistakes among them. A gap "
            "is a time without calls.",
            [series(f"(sum({failed}) or vector(0)) / sum({handled})", "not OK")],
        ),
        stacked(
            graph(
                "Rejected by reason",
                units.RequestsPerSecond,
                "ModelInfer requests to the chosen models that got no answer.",
                [series(total_rate("nyquist_rejected_total", "reason"), "{{reason}}")],
            )
        ),
    ]


def runtime() -> list[Panel]:
    """Return the panels that say what runs, and what it takes."""
    return [
        providers(),
        graph(
            "Processor cores in use",
            units.Number,
            "By server process; 1 is one core, busy all the time.",
            [series(f"rate(process_cpu_seconds_total{PROCESS}{RANGE})", "{{instance}}")],
        ).span(HALF // 2),
        graph(
            "Resident memory",
            units.BytesIEC,
            "By server process; memory on a GPU is not in it.",
            [series(f"process_resident_memory_bytes{PROCESS}", "{{instance}}")],
        ).span(HALF // 2),
    ]


def providers() -> table.Panel:
    """Return the table of the loaded models: the labels of their info, and their fallbacks."""
    query = (
        prometheus.Dataquery()
        .expr(
            f"nyquist_model_info{MODEL} * on (job, instance, model, version) group_left () "
            f"nyquist_provider_fallback_total{MODEL}"
        )
        .format(PromQueryFormat.TABLE)
        .instant()
        .datasource(SOURCE)
        .ref_id("A")
    )
    columns = ("model", "version", "provider", "Value", "opset", "instance", "sha256")
    organize = DataTransformerConfig(
        "organize",
        options={
            "excludeByName": {"Time": True, "job": True},
            "indexByName": {column: index for index, column in enumerate(columns)},
            "renameByName": {"Value": "fallbacks"},
        },
    )
    red_from_one = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    red_from_one.steps([Threshold(color="green"), Threshold(value=1, color="red")])
    return (
        table.Panel()
        .title("Models and execution providers")
        .description(
            "What is loaded and what runs it. Fallbacks: sessions that asked for CUDA and got the "
            "CPU; red, because they answer slowly and say nothing."
        )
        .unit(units.Number)
        .thresholds(red_from_one)
        .override_by_name(
            "fallbacks", [DynamicConfigValue("custom.cellOptions", {"type": "color-background"})]
        )
        .with_target(query)
        .with_transformation(organize)
        .datasource(SOURCE)
        .span(HALF)
        .height(HEIGHT)
    )


def latency_dashboard() -> dashboard.Dashboard:
    """Return the dashboard, with data source and model as its variables."""
    source = (
        dashboard.DatasourceVariable("datasource")
        .label("Data source")
        .type("prometheus")
        .current(VariableOption(text="Prometheus", value=SOURCE_UID))
    )
    model = (
        dashboard.QueryVariable("model")
        .label("Model")
        .query('label_values(nyquist_model_ready{job="nyquist"}, model)')
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)  # noqa: FBT003 - the builder's signature
        .include_all(True)  # noqa: FBT003 - the builder's signature
        .all_value(".+")
        .current(VariableOption(text=["All"], value=["$__all"]))
    )
    board = (
        dashboard.Dashboard("Nyquist latency")
        .uid("nyquist-latency")
        .description("How many requests, how fast, where the time goes, and what runs them.")
        .tags(["nyquist"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-15m", "now")
        .refresh("10s")
        .with_variable(source)
        .with_variable(model)
    )
    rows = (
        ("Traffic", traffic()),
        ("Where the time goes", batching()),
        ("Results", results()),
        ("What runs", runtime()),
    )
    identifiers = count(1)
    for title, panels in rows:
        board.with_row(dashboard.Row(title).id(next(identifiers)))
        for panel in panels:
            board.with_panel(panel.id(next(identifiers)))
    return board


def main(file: Path) -> None:
    """Write the dashboard to a file."""
    text = json.dumps(latency_dashboard().build(), cls=JSONEncoder, indent=2, sort_keys=True)
    file.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
