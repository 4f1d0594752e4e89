"""Panels and dashboards in the house style: queries -> panels -> rows -> dashboard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from nyquist.companion.watch import names as companion
from nyquist.server.telemetry import names as server

Panel: TypeAlias = timeseries.Panel | stat.Panel | table.Panel | bargauge.Panel
P = TypeVar("P", timeseries.Panel, stat.Panel, table.Panel, bargauge.Panel)

SOURCE_UID = "nyquist-prometheus"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "nyquist"

FULL, HALF, THIRD, QUARTER, SIXTH = 24, 12, 8, 6, 4  # of the grid's 24 columns
HEIGHT, LOW = 8, 4


@dataclass(frozen=True)
class Row:
    """Panels beneath a heading, from left to right."""

    title: str
    panels: Sequence[Panel]


def series(expression: str, legend: str) -> prometheus.Dataquery:
    """Return a query over the time range of the dashboard."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).range().datasource(SOURCE)


def now(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return a query for the end of the time range."""
    query = prometheus.Dataquery().expr(expression).instant().datasource(SOURCE)
    return query.legend_format(legend) if legend else query.format(PromQueryFormat.TABLE)


def thresholds(first: str, *steps: tuple[float, str]) -> dashboard.ThresholdsConfig:
    """Return colours: the first from the bottom up, each other from its value."""
    config = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    return config.steps(
        [Threshold(color=first), *(Threshold(value=value, color=color) for value, color in steps)]
    )


def graph(
    title: str, unit: str, description: str, *queries: prometheus.Dataquery
) -> timeseries.Panel:
    """Return a panel of lines over time, from zero upwards."""
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)  # noqa: FBT003 - the builder's signature
    )
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
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
        .tooltip(tooltip)
    )
    return _asking(panel, queries)


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """Pile the series of a panel up, filled."""
    return panel.fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))


def logarithmic(panel: timeseries.Panel) -> timeseries.Panel:
    """Draw rounding errors: a logarithmic axis, from the least that float32 can show."""
    scale = common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10)
    return panel.min(1e-8).scale_distribution(scale)


def limited(panel: timeseries.Panel, *steps: tuple[float, str]) -> timeseries.Panel:
    """Draw dashed lines at these values."""
    style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    return panel.thresholds(thresholds("transparent", *steps)).thresholds_style(style)


def figure(
    title: str,
    unit: str,
    description: str,
    query: prometheus.Dataquery,
    colors: dashboard.ThresholdsConfig | None = None,
) -> stat.Panel:
    """Return a panel of one large figure: the last one of a query."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .span(SIXTH)
        .height(LOW)
        .datasource(SOURCE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .thresholds(colors or thresholds("text"))
    )
    return _asking(panel, [query])


def bars(
    title: str,
    unit: str,
    description: str,
    query: prometheus.Dataquery,
    colors: dashboard.ThresholdsConfig,
) -> bargauge.Panel:
    """Return a panel of horizontal bars, one a series, from 0 to 1."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .min(0)
        .max(1)
        .span(THIRD)
        .height(HEIGHT)
        .datasource(SOURCE)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(colors)
    )
    return _asking(panel, [query])


def rows_of(
    title: str,
    unit: str,
    description: str,
    query: prometheus.Dataquery,
    columns: Mapping[str, str],
) -> table.Panel:
    """Return a table of the labels and the value of each series.

    Args:
        title: of the panel.
        unit: of the value.
        description: of the panel.
        query: its answer at the end of the time range.
        columns: label by heading, from left to right; `Value` is the value. Others are left out.
    """
    keep = DataTransformerConfig("filterFieldsByName", options={"include": {"names": [*columns]}})
    arrange = DataTransformerConfig(
        "organize",
        options={
            "excludeByName": {},
            "indexByName": {column: index for index, column in enumerate(columns)},
            "renameByName": {column: name for column, name in columns.items() if column != name},
        },
    )
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .unit(units.String)  # of the labels: a version is no number of seconds
        .override_by_name(columns.get("Value", "Value"), [DynamicConfigValue("unit", unit)])
        .span(HALF)
        .height(HEIGHT)
        .datasource(SOURCE)
        .with_transformation(keep)
        .with_transformation(arrange)
    )
    return _asking(panel, [query])


def grid_of(
    title: str, unit: str, description: str, query: prometheus.Dataquery, row: str, column: str
) -> table.Panel:
    """Return a table of values with one label for its rows and another for its columns."""
    pivot = DataTransformerConfig(
        "groupingToMatrix",
        options={"rowField": row, "columnField": column, "valueField": "Value"},
    )
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .span(HALF)
        .height(HEIGHT)
        .datasource(SOURCE)
        .with_transformation(pivot)
    )
    return _asking(panel, [query])


def coloured(panel: table.Panel, column: str, colors: dashboard.ThresholdsConfig) -> table.Panel:
    """Fill the cells of a column with the colour of their value."""
    return panel.thresholds(colors).override_by_name(
        column, [DynamicConfigValue("custom.cellOptions", {"type": "color-background"})]
    )


def labelled(panel: table.Panel, column: str, colors: Mapping[str, str]) -> table.Panel:
    """Fill the cells of a column of words, each word with its colour."""
    words = {
        word: {"color": color, "index": index} for index, (word, color) in enumerate(colors.items())
    }
    return panel.override_by_name(
        column,
        [
            DynamicConfigValue("custom.cellOptions", {"type": "color-background"}),
            DynamicConfigValue("mappings", [{"type": "value", "options": words}]),
        ],
    )


# The caller's own mistakes are blue, what was too much or too late is warm, what broke is red.
STATUS_COLORS = {
    "OK": "green",
    "CANCELLED": "light-blue",
    "INVALID_ARGUMENT": "blue",
    "NOT_FOUND": "dark-blue",
    "DEADLINE_EXCEEDED": "yellow",
    "RESOURCE_EXHAUSTED": "orange",
    "UNAVAILABLE": "dark-orange",
    "INTERNAL": "red",
}
REASON_COLORS = {
    "cancelled": "light-blue",
    "invalid": "blue",
    "too_large": "dark-blue",
    "too_slow": "light-orange",
    "timeout": "light-yellow",
    "deadline": "yellow",
    "queue_full": "orange",
    "stopping": "purple",
    "failed": "red",
}


def painted(panel: timeseries.Panel, colors: Mapping[str, str]) -> timeseries.Panel:
    """Draw each of these series in its colour."""
    for name, color in colors.items():
        fixed = DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})
        panel.override_by_name(name, [fixed])
    return panel


def dashed(panel: timeseries.Panel, last_word: str) -> timeseries.Panel:
    """Draw the series whose names end in a word as dashed lines: limits, and nothing measured."""
    line = DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]})
    return panel.override_by_regexp(f"/ {last_word}$/", [line])


def _asking(panel: P, queries: Sequence[prometheus.Dataquery]) -> P:
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        panel.with_target(query.ref_id(letter))
    return panel


def chosen(name: str, label: str, values: str, *, several: bool = True) -> dashboard.QueryVariable:
    """Return a variable with the values of a label; all of them at first, if it takes several."""
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .query(values)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(several)
    )
    if several:
        variable.all_value(".+").current(VariableOption(text=["All"], value=["$__all"]))
    return variable


JOB = ("job", "Server", f"label_values({server.BUILD_INFO}, job)")
COMPANION_JOB = ("companion", "Companion", f"label_values({companion.BUILD_INFO}, job)")
SERVED_MODEL = ("model", "Model", f'label_values({server.MODEL_READY}{{job=~"$job"}}, model)')


def board(
    title: str,
    uid: str,
    description: str,
    variables: Sequence[dashboard.QueryVariable],
    rows: Sequence[Row],
) -> dashboard.Dashboard:
    """Return a dashboard: the data source and these variables, its rows, links to the others."""
    source = (
        dashboard.DatasourceVariable("datasource")
        .label("Data source")
        .type("prometheus")
        .current(VariableOption(text="Prometheus", value=SOURCE_UID))
    )
    link = (
        dashboard.DashboardLink("Nyquist")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .keep_time(True)  # noqa: FBT003 - the builder's signature
        .include_vars(True)  # noqa: FBT003 - the builder's signature
    )
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-15m", "now")
        .refresh("10s")
        .link(link)
        .with_variable(source)
    )
    for variable in variables:
        built.with_variable(variable)
    identifiers = count(1)
    for row in rows:
        built.with_row(dashboard.Row(row.title).id(next(identifiers)))
        for panel in row.panels:
            built.with_panel(panel.id(next(identifiers)))
    return built
