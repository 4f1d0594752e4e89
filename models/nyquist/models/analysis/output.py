"""Where an analysis puts its tables: a terminal, or one JSON document."""

import json
from typing import Protocol, TextIO

from rich.table import Table


class Output(Protocol):
    """Takes tables and lines as they come; a rich Console is one."""

    def print(
        self, shown: Table | str, /, *, highlight: bool | None = None, soft_wrap: bool | None = None
    ) -> None:
        """Show one of them."""


class JsonOutput:
    """Keeps tables and lines for one document, each cell as the table shows it."""

    def __init__(self) -> None:
        self._tables: list[dict[str, object]] = []
        self._lines: list[str] = []

    def print(
        self,
        shown: Table | str,
        /,
        *,
        highlight: bool | None = None,  # noqa: ARG002 - as a Console's
        soft_wrap: bool | None = None,  # noqa: ARG002 - as a Console's
    ) -> None:
        """Keep one of them."""
        if isinstance(shown, str):
            self._lines.append(shown)
            return
        headers = [str(column.header) or "remark" for column in shown.columns]
        cells = zip(*(map(str, column.cells) for column in shown.columns), strict=True)
        rows = [dict(zip(headers, row, strict=True)) for row in cells]
        self._tables.append({"title": str(shown.title), "rows": rows})

    def write(self, stream: TextIO) -> None:
        """Write the document."""
        document = {"tables": self._tables, "notes": self._lines}
        stream.write(json.dumps(document, indent=2) + "\n")
