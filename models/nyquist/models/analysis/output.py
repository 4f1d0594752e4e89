"""Where an analysis puts its tables: a terminal, a JSON document, or both."""

import json
from dataclasses import dataclass
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

NAME_WIDTH = 28


@dataclass(frozen=True)
class Figure:
    """A cell that is read by eyes and by programs.

    Attributes:
        value: a number, a list of numbers, or None where there is none.
        text: the same as a table shows it.
    """

    value: object
    text: str


def figure(value: float, spec: str = "") -> Figure:
    """Return a number that is shown as a format specification says."""
    return Figure(value, format(value, spec))


class FigureTable(Table):
    """A table that keeps the values of its cells beside their texts.

    Args:
        title: what it shows.
        headers: of its columns.
        names: how many of them, from the left, are text; the others are figures.
    """

    def __init__(self, title: str, *headers: str, names: int = 1) -> None:
        super().__init__(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        self.records: list[dict[str, object]] = []
        for at, header in enumerate(headers):
            if at < names:
                self.add_column(header, max_width=NAME_WIDTH, overflow="fold")
            else:
                self.add_column(header, justify="right", no_wrap=True)

    def add(self, *cells: str | int | Figure) -> None:
        """Add a row; a number is shown as it is."""
        headers = [str(column.header) or "remark" for column in self.columns]
        values = (cell.value if isinstance(cell, Figure) else cell for cell in cells)
        self.records.append(dict(zip(headers, values, strict=True)))
        self.add_row(*(cell.text if isinstance(cell, Figure) else str(cell) for cell in cells))


class Output:
    """Shows tables and lines as they come, and keeps them for a document.

    Args:
        console: where they are shown; None shows nothing.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._tables: list[dict[str, object]] = []
        self._lines: list[str] = []

    def show(self, table: FigureTable) -> None:
        """Take a table."""
        self._tables.append({"title": str(table.title), "rows": table.records})
        if self._console is not None:
            self._console.print(table)

    def say(self, line: str) -> None:
        """Take a line, which no terminal breaks."""
        self._lines.append(line)
        if self._console is not None:
            self._console.print(line, highlight=False, soft_wrap=True)

    def write(self, stream: TextIO) -> None:
        """Write the document: {"tables": [{"title", "rows": [{header: value}]}], "notes"}."""
        document = {"tables": self._tables, "notes": self._lines}
        stream.write(json.dumps(document, indent=2) + "\n")
