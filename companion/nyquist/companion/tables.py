"""The reports of the command line as tables of 80 columns."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nyquist.companion.page.kit.wording import narrow, percent, share
from nyquist.companion.service.check import Row
from nyquist.server.wire.pb import validation_pb2 as pb

LACKING = "-"
"""What a server does not say, or has no reference to be held against."""


def row_table(rows: Sequence[Row]) -> Table:
    """Lay out the rows of a check, a line a model."""
    table = _table("model", "on", "parity", "argmax", "ms", "torch", "")
    for column in table.columns[2:6]:
        column.justify = "right"
    for row in rows:
        (latency,) = row.latency.measured
        graph, compared = row.parity.graph, not row.parity.graph.no_reference
        table.add_row(
            graph.model_name,
            graph.execution_provider.removesuffix("ExecutionProvider") or LACKING,
            f"{row.parity.relative_error:.1e}" if compared else LACKING,
            _agreement(row) if compared else LACKING,
            f"{1e3 * latency.served_s:.2f}",
            f"{1e3 * latency.reference_s:.2f}" if compared else LACKING,
            _outcome(row),
        )
    return table


def _agreement(row: Row) -> str:
    """Write how many pictures have the same answer; of embeddings the mean cosine."""
    agreement, pictures = row.parity.argmax_agreement, row.parity.pictures
    if not row.consistency.pairs:
        return percent(agreement)
    return f"{round(agreement * pictures)} of {pictures}"


def _outcome(row: Row) -> str:
    if row.parity.graph.no_reference:
        return "no reference"
    return "[red]miss[/red]" if row.misses else "[green]ok[/green]"


def steadiness_table(rows: Sequence[Row]) -> Table:
    """Lay out what the build says of shift consistency beside what is seen now, a line a model."""
    table = _table("model", "one pixel", "circular", "of", "now", "of")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        report = row.consistency
        (now,) = report.measured
        one_pixel, circular = report.built_one_pixel, report.built_circular
        table.add_row(
            report.graph.model_name,
            _built(one_pixel) if report.HasField("built_one_pixel") else LACKING,
            _built(circular) if report.HasField("built_circular") else LACKING,
            str(circular.pictures or LACKING),
            narrow(share(now.served, now.served_error, report.pictures, report.pairs)),
            str(report.pictures),
        )
    return table


def _built(figure: pb.ConsistencyReport.Built) -> str:
    return narrow(share(figure.share, figure.standard_error, figure.pictures, figure.pairs))


def consistency_table(reports: Sequence[pb.ConsistencyReport]) -> Table:
    """Lay out shares with their standard errors, a line a protocol."""
    table = _table("model", "protocol", "pictures", "served", "torch")
    for column in table.columns[2:]:
        column.justify = "right"
    for report in reports:
        over = report.pictures, report.pairs
        for at, one in enumerate(report.measured):
            table.add_row(
                "" if at else report.graph.model_name,
                one.protocol,
                str(report.pictures),
                narrow(share(one.served, one.served_error, *over)),
                LACKING
                if report.graph.no_reference
                else narrow(share(one.reference, one.reference_error, *over)),
            )
    return table


def latency_table(reports: Sequence[pb.LatencyReport]) -> Table:
    """Lay out times, a line a batch size."""
    table = _table("model", "batch", "served ms", "p95", "torch ms", "p95", "torch / served")
    for column in table.columns[1:]:
        column.justify = "right"
    for report in reports:
        for at, one in enumerate(report.measured):
            compared = not report.graph.no_reference
            times = (one.served_s, one.served_p95_s, one.reference_s, one.reference_p95_s)
            table.add_row(
                "" if at else report.graph.model_name,
                str(one.batch_size),
                *(f"{1e3 * seconds:.2f}" if seconds else LACKING for seconds in times),
                f"{one.reference_s / one.served_s:.2f}" if compared else LACKING,
            )
    return table


def description_table(one: pb.ModelDescription) -> Table:
    """Lay out what a model is, a line a fact."""
    table = _table(one.graph.model_name, "")
    options = ", ".join(f"{name} {value}" for name, value in sorted(one.options.items()))
    field = one.receptive_field
    facts = {
        "version": f"{one.graph.model_version}, sha256 {one.graph.sha256[:12]}...",
        "on": one.graph.execution_provider,
        "architecture": one.architecture + (f", {options}" if options else ""),
        "graph": f"{one.precision}, opset {one.opset}",
        "parameters": f"{one.parameters:,}",
        "multiply-adds": f"{one.multiply_adds:,} a picture",
        "receptive field": _field(field) if one.HasField("receptive_field") else "unknown",
        "verdict": one.verdict + (f": {one.reason}" if one.reason else ""),
    }
    for name, fact in facts.items():
        if fact:
            table.add_row(name, fact)
    for title, figures in (("build", one.figures), ("limit", one.tolerances)):
        for name in sorted(figures):
            if name not in ("parameters", "multiply_adds"):
                table.add_row(f"{title}: {name}", f"{figures[name]:.4g}")
    for name in sorted(one.training):
        table.add_row(f"training: {name}", one.training[name])
    return table


def _field(field: pb.ModelDescription.ReceptiveField) -> str:
    size = f"{field.height}x{field.width} px at {field.layer}"
    whole = ", and the whole picture through a statistic" if field.whole else ""
    aligned = "aligned" if field.aligned else "not aligned"
    return f"{size}, stride {field.output_stride}, {aligned}, drift {field.drift:+.1f} px{whole}"


def _table(*headers: str) -> Table:
    return Table(*headers, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
