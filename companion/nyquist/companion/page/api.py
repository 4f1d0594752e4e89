"""What the companion knows, for programs: candidates as JSON, and the history as CSV or JSON.

rollouts -> document        history -> rows -> a stream of lines
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from math import isfinite
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from nyquist.companion.page.kit.wording import machine_moment
from nyquist.companion.watch.candidate import Figure, Rollout
from nyquist.companion.watch.history import JSON_COLUMNS, TABLES, History
from nyquist.companion.watch.rollouts import Rollouts

WRITTEN_AT_ONCE = 500
MEDIA = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


class Api:
    """Answers programs.

    Args:
        rollouts: candidates of the models.
        history: of everything.
    """

    def __init__(self, rollouts: Rollouts, history: History) -> None:
        self._rollouts, self._history = rollouts, history

    def routes(self) -> Sequence[BaseRoute]:
        """Return what is answered, all of it below /api/."""
        return [
            Route("/rollouts", self.rollouts),
            Route("/rollouts/{model}", self.rollout),
            Route("/{table}.{form}", self.table),
        ]

    def rollouts(self, _: Request) -> Response:
        """Answer with the candidates of all models."""
        return JSONResponse([document(one) for one in self._rollouts.rollouts()])

    def rollout(self, request: Request) -> Response:
        """Answer with the candidate of one model, or with 404 and the reason."""
        model = request.path_params["model"]
        for one in self._rollouts.rollouts(model):
            return JSONResponse(document(one))
        why = f"no two versions of {model!r} were compared: both must be served, and get traffic"
        return JSONResponse({"error": why}, 404)

    def table(self, request: Request) -> Response:
        """Answer with a table of the history, of all models or of `?model=`."""
        table, form = request.path_params["table"], request.path_params["form"]
        if table not in TABLES or form not in MEDIA:
            known = ", ".join(f"{name}.csv, {name}.json" for name in TABLES)
            return JSONResponse({"error": f"there is no {table}.{form}; there are {known}"}, 404)
        rows = self._history.rows(table, request.query_params.get("model", ""))
        write = as_csv if form == "csv" else as_json
        named = {"content-disposition": f'attachment; filename="{table}.{form}"'}
        return StreamingResponse(write(TABLES[table], rows), media_type=MEDIA[form], headers=named)


def document(rollout: Rollout) -> dict[str, Any]:
    """Return how a candidate stands as plain values."""
    pair = rollout.pair
    return {
        "model": pair.model,
        "baseline": pair.baseline,
        "candidate": pair.candidate,
        "baseline_sha256": pair.baseline_sha256,
        "candidate_sha256": pair.candidate_sha256,
        "decision": rollout.decision.value,
        "decided_at": rollout.decided_at,
        "reason": rollout.reason,
        "pictures": rollout.pictures,
        "figures": {figure.name: _figure(figure) for figure in rollout.figures},
        "baseline_s": rollout.baseline_s,
        "candidate_s": rollout.candidate_s,
        "began": machine_moment(rollout.began_s),
        "seen": machine_moment(rollout.seen_s),
        "over": rollout.over,
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        "mean": figure.mean,
        "low": figure.low,
        "high": figure.high,
        "least": figure.least if isfinite(figure.least) else None,
        "most": figure.most,
        "held": figure.held,
    }


def as_csv(columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    """Write rows as RFC 4180 has them, below a line of their names."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(columns)
    for at, row in enumerate(rows, 1):
        writer.writerow(row)
        if at % WRITTEN_AT_ONCE == 0:
            yield stream.getvalue()
            stream.seek(0)
            stream.truncate()
    yield stream.getvalue()


def as_json(columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    """Write rows as an array of objects; what is not finite becomes null, which JSON has not."""
    lines = [json.dumps(_plain(columns, row)) for row in islice(rows, WRITTEN_AT_ONCE)]
    before = "[\n"
    while lines:
        yield before + ",\n".join(lines)
        before = ",\n"
        lines = [json.dumps(_plain(columns, row)) for row in islice(rows, WRITTEN_AT_ONCE)]
    yield "[]\n" if before == "[\n" else "\n]\n"


def _plain(columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    values = dict(zip(columns, row, strict=True))
    for name, value in values.items():
        if name in JSON_COLUMNS:
            values[name] = json.loads(value)
        elif isinstance(value, float) and not isfinite(value):
            values[name] = None
    return values
