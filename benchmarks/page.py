"""docs/performance.md: tables and plots of a run, between markers.

<!-- table NAME --> ... <!-- end --> is replaced whole; the words around it are written by hand.
"""

import re
from pathlib import Path

from benchmarks import plots
from benchmarks.results import Results
from benchmarks.tables import markdown, sheets

PAGE = "performance.md"
MARKED = re.compile(r"(<!-- table ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(results: Results, docs: Path) -> None:
    """Put a run into the page, and draw its plots beside it."""
    page = docs / PAGE
    page.write_text(filled(page.read_text(), results))
    plots.draw(results, docs / "performance")


def filled(text: str, results: Results) -> str:
    """Return the page with the tables of a run; a table without rows says so."""
    tables = {sheet.name: markdown(sheet) for sheet in sheets(results)}

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{tables.get(found[2], 'Nothing was measured.')}\n\n{found[3]}"

    return MARKED.sub(table, text)
