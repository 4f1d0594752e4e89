"""The figures of a run: one JSON file that grows with every window.

measured -> add -> saved whole -> selected, by what was measured -> medians and spreads
"""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1

Fact = str | int | float


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        of: what was measured: the experiment, the model, the server, the load, the round.
        figures: what came of it, each with its unit in its name.
    """

    of: Mapping[str, Fact]
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def over(cls, values: Sequence[float]) -> "Spread":
        """Return that of some values, of which there is at least one."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    """All that a run has measured.

    Attributes:
        environment: machine, versions, commit.
        rows: measurements in their order.
        missing: the reason why a server was not measured, by its name.
    """

    environment: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def has(self, **of: Fact) -> bool:
        """Say whether exactly this was measured."""
        return any(row.of == of for row in self.rows)

    def add(self, of: Mapping[str, Fact], figures: Mapping[str, Any]) -> None:
        """Take one measurement."""
        self.rows.append(Row(dict(of), dict(figures)))

    def select(self, **of: Fact) -> list[Row]:
        """Return the measurements of which all this is true, in their order."""
        return [row for row in self.rows if of.items() <= row.of.items()]

    def values(self, fact: str, **of: Fact) -> list[Any]:
        """Return the different values of a fact among what `select` finds, in their order."""
        return list(dict.fromkeys(row.of[fact] for row in self.select(**of) if fact in row.of))

    def by_round(self, figure: str, **of: Fact) -> dict[int, float]:
        """Return one figure of what `select` finds, by round."""
        return {int(row.of["round"]): float(row.figures[figure]) for row in self.select(**of)}

    def spread(self, figure: str, **of: Fact) -> Spread | None:
        """Return the spread of one figure over the rounds; None where nothing was measured."""
        values = list(self.by_round(figure, **of).values())
        return Spread.over(values) if values else None

    def save(self, path: Path) -> None:
        """Write everything; the file appears whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "environment": self.environment,
            "missing": self.missing,
            "rows": [{"of": row.of, "figures": row.figures} for row in self.rows],
        }
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with fresh.open("w") as file:
            file.write(_lines(content))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


def _lines(content: Mapping[str, Any]) -> str:
    """Return JSON with one row a line, which is small and can be read."""
    rows = ",\n".join(json.dumps(row) for row in content["rows"])
    head = json.dumps({key: content[key] for key in content if key != "rows"}, indent=1)
    return f'{head.removesuffix("}").rstrip()},\n "rows": [\n{rows}\n]}}\n'


def read(path: Path) -> Results:
    """Read what a run has saved.

    Raises:
        ValueError: the file is of another format.
    """
    content = json.loads(path.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has format {content.get('format')!r}, expected {FORMAT}")
    rows = [Row(row["of"], row["figures"]) for row in content["rows"]]
    return Results(content["environment"], rows, content["missing"])
