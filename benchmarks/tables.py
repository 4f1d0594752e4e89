"""The results as tables: for a terminal, and as Markdown for the documentation.

results -> sheets (titles, columns, words) -> rich tables, or Markdown
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.results import Fact, Results, Spread
from benchmarks.targets import TARGETS, Verdict, aliasing, verdicts

GROWTH = {
    "client batch": "pictures in a request",
    "connections": "connections, 16 calls in flight",
    "picture side": "height and width",
    "cores": "cores of the server",
    "models loaded": "models loaded",
}
COLOURS = {"met": "green", "missed": "red", "not measured": "yellow"}


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        name: in the markers of the documentation.
        title: above it.
        columns: their heads; all but the first `left` hold numbers.
        rows: words for each column.
        left: columns that are aligned to the left.
        grouped: whether the first column becomes a heading of its own in a terminal.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    grouped: bool = False


def sheets(results: Results) -> list[Sheet]:
    """Return every table that has rows."""
    makers = (
        _environment, _targets, _cases, _bare, _servers, _payloads, _open_loop, _aliasing, _starts,
        _growth, _missing,
    )  # fmt: skip
    return [sheet for maker in makers if (sheet := maker(results)).rows]


def show(results: Results, console: Console) -> None:
    """Print every table, the targets last, where they are seen."""
    for sheet in sorted(sheets(results), key=lambda one: one.name == "targets"):
        console.print(f"\n[bold]{sheet.title}[/]")
        for part in _parts(sheet):
            console.print(_terminal_table(part))


def _parts(sheet: Sheet) -> list[Sheet]:
    """Split a grouped sheet by its first column."""
    if not sheet.grouped:
        return [replace(sheet, title="")]
    parts = []
    for name in dict.fromkeys(row[0] for row in sheet.rows):
        rows = [row[1:] for row in sheet.rows if row[0] == name]
        parts.append(Sheet(sheet.name, name, sheet.columns[1:], rows, sheet.left - 1))
    return parts


def _terminal_table(sheet: Sheet) -> Table:
    table = Table(
        title=sheet.title or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for at, column in enumerate(sheet.columns):
        table.add_column(
            column, justify="left" if at < sheet.left else "right", no_wrap=sheet.left <= at
        )
    for row in sheet.rows:
        table.add_row(*row, style=COLOURS.get(row[-1]))
    return table


def markdown(sheet: Sheet) -> str:
    """Return a table as Markdown."""
    rule = ["---" if at < sheet.left else "---:" for at in range(len(sheet.columns))]
    lines = [sheet.columns, rule, *sheet.rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("\n", "<br>") for line in lines)


def number(value: float) -> str:
    """Return a number with three or more significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def words(spread: Spread | None) -> str:
    """Return a median with the least and the most."""
    if spread is None:
        return "-"
    return f"{number(spread.median)} ({number(spread.least)}-{number(spread.most)})"


def short(spread: Spread | None, unit: float = 1.0) -> str:
    """Return a median with half the distance from the least to the most, in percent of it."""
    if spread is None:
        return "-"
    half = (spread.most - spread.least) / 2 / spread.median if spread.median else 0.0
    return f"{number(spread.median / unit)} ±{half:.0%}"


def _environment(results: Results) -> Sheet:
    rows = []
    for key, value in results.environment.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        rows.append([key.replace("_", " "), str(text)])
    return Sheet("environment", "Where it was measured", ["", "value"], rows, left=2)


def _targets(results: Results) -> Sheet:
    """The worst case of each target, which decides."""
    found, rows = verdicts(results), []
    for target in TARGETS:
        cases = [one for one in found if one.target is target]
        known = [one for one in cases if one.value is not None]
        met = sum(one.word == "met" for one in known)
        worst = _worst(known) if known else cases[0]
        limit = f"{'≥' if target.sense == 'at least' else '≤'} {target.limit:g}"
        count = f"{met} of {len(known)}" if known else "-"
        text = f"{target.text}\n{worst.case}".rstrip()
        rows.append([text, limit, words(worst.value), count, worst.word])
    columns = ["target, and its worst case", "limit", "median (least-most)", "met", ""]
    return Sheet("targets", "Targets", columns, rows)


def _worst(known: Sequence[Verdict]) -> Verdict:
    least = known[0].target.sense == "at least"
    medians = [one.value.median for one in known if one.value]
    return known[medians.index(min(medians) if least else max(medians))]


def _cases(results: Results) -> Sheet:
    rows = [
        [one.target.text, one.case, words(one.value), one.word]
        for one in verdicts(results)
        if one.value is not None
    ]
    columns = ["target", "case", "median (least-most)", ""]
    return Sheet("cases", "Every case of every target", columns, rows, left=2, grouped=True)


def _bare(results: Results) -> Sheet:
    rows = []
    for model in results.values("model", experiment="bare"):
        of: dict[str, Fact] = {"experiment": "bare", "model": model}
        for setting in results.values("setting", **of):
            best = _best_batch(results, {**of, "setting": setting})
            each = [
                results.spread(figure, **of, setting=setting, batch=batch)
                for batch, figure in (
                    (1, "p50_us"), (1, "images_s"), (1, "cpu_us"), (best, "images_s"),
                    (best, "cpu_us"),
                )
            ]  # fmt: skip
            rows.append([model, setting, *map(short, each[:3]), str(best), *map(short, each[3:])])
    columns = [
        "model", "sessions", "batch 1: p50 us", "images/s", "CPU us", "best", "images/s", "CPU us",
    ]  # fmt: skip
    title = "Bare onnxruntime, in process: sessions x threads, batch 1 and the best batch"
    return Sheet("bare", title, columns, rows, left=2, grouped=True)


def _best_batch(results: Results, of: dict[str, Fact]) -> int:
    """Return the batch size of the most images a second."""
    found = {
        size: results.spread("images_s", **of, batch=size) for size in results.values("batch", **of)
    }
    medians = {size: each.median for size, each in found.items() if each}
    return int(max(medians, key=lambda size: medians[size]))


_FIGURES = (
    "images_s",
    "p50_us",
    "p95_us",
    "p99_us",
    "p999_us",
    "cpu_us",
    "client_cpu_us",
    "peak_mb",
)
_HEADS = ["images/s", "p50 ms", "p95", "p99", "p99.9", "CPU us", "client", "MB"]


def _figures(results: Results, of: dict[str, Fact]) -> list[str]:
    """Return throughput and CPU with their spreads, the others as medians.

    But the memory is the least: it is the most since the start, so that in a later round it has in
    it what the earlier ones took with other loads.
    """
    found = {figure: results.spread(figure, **of) for figure in _FIGURES}
    if None in found.values():
        return ["-"] * len(_FIGURES)
    return [_figure(name, each) for name, each in found.items() if each]


def _figure(name: str, rounds: Spread) -> str:
    if name in ("images_s", "cpu_us"):
        return short(rounds)
    if name == "peak_mb":
        return number(rounds.least)
    return number(rounds.median / 1000 if name.startswith("p") else rounds.median)


def _loads(results: Results, **of: Fact) -> Iterator[tuple[str, str, dict[str, Fact]]]:
    """Return model, server and what was measured, of every load that `of` describes."""
    of = {"experiment": "servers", **of}
    for model in results.values("model", **of):
        for server in results.values("server", **of, model=model):
            yield model, server, {**of, "model": model, "server": server}


def _servers(results: Results) -> Sheet:
    rows = []
    for model, server, of in _loads(results, load="closed", payload="tensor", batch=1):
        for calls in results.values("concurrency", **of):
            figures = _figures(results, {**of, "concurrency": calls})
            rows.append([model, server, str(calls), *figures])
    columns = ["model", "server", "n", *_HEADS]
    title = "Servers, n calls in flight, one picture a request; CPU and client in us an image"
    return Sheet("servers", title, columns, rows, left=2, grouped=True)


def _payloads(results: Results) -> Sheet:
    rows = []
    for payload, batch in (("tensor", 8), ("jpeg", 1)):
        for model, server, of in _loads(results, load="closed", payload=payload, batch=batch):
            request = "JPEG" if payload == "jpeg" else str(batch)
            rows.append([model, server, request, *_figures(results, of)])
    columns = ["model", "server", "of", *_HEADS]
    return Sheet(
        "payloads",
        "Requests of 8 pictures, and of a JPEG file, 16 in flight",
        columns,
        rows,
        left=3,
        grouped=True,
    )


def _open_loop(results: Results) -> Sheet:
    rows = []
    for model, server, of in _loads(results, load="open"):
        for share in results.values("fraction", **of):
            figures = _figures(results, {**of, "fraction": share})
            rows.append([model, server, f"{share:.0%}", *figures])
    columns = ["model", "server", "rate", *_HEADS]
    title = "Poisson arrivals, rate as a share of the most images/s in closed loops"
    return Sheet("open-loop", title, columns, rows, left=2, grouped=True)


def _aliasing(results: Results) -> Sheet:
    rows = [
        [pair, f"{macs:.2f}", words(bare), words(own)]
        for pair, macs, bare, own in aliasing(results)
    ]
    columns = ["anti-aliased / strided", "multiply-adds", "CPU of bare onnxruntime", "CPU served"]
    return Sheet("aliasing", "The price of anti-aliasing", columns, rows)


def _starts(results: Results) -> Sheet:
    rows = []
    of: dict[str, Fact] = {"experiment": "servers", "what": "start"}
    for server in results.values("server", **of):
        found = results.select(**of, server=server)
        start, load = (
            Spread.over([row.figures[figure] for row in found]) for figure in ("start_s", "load_s")
        )
        rows.append([server, words(start), words(load) if load.most else "-"])
    rows += [
        [
            f"nyquist, {row.of['value']} models",
            number(row.figures["start_s"]),
            number(row.figures["load_s"]),
        ]
        for row in results.select(experiment="models loaded", what="start")
    ]
    rows += [
        [f"export/build.py, {row.of['model']}", number(row.figures["build_s"]), "-"]
        for row in results.select(experiment="export")
    ]
    columns = ["", "start to first answer, s", "of which the model's load, s"]
    return Sheet("starts", "Cold start, one model, and export", columns, rows)


def _growth(results: Results) -> Sheet:
    rows = []
    for experiment, what in GROWTH.items():
        for value in results.values("value", experiment=experiment):
            of: dict[str, Fact] = {"experiment": experiment, "value": value}
            for calls in results.values("concurrency", **of):
                each = _figures(results, {**of, "concurrency": calls})
                rows.append([what, f"{value:,}", str(calls), *each])
    columns = ["what grows", "to", "n", *_HEADS]
    return Sheet("growth", "How cost grows, Nyquist", columns, rows, grouped=True)


def _missing(results: Results) -> Sheet:
    rows = [[name, reason.replace("|", "/")] for name, reason in results.missing.items()]
    return Sheet("missing", "Not measured", ["", "why"], rows, left=2)
