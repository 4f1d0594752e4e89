"""What the companion knows, for programs: what the pages show as JSON, the history as CSV too.

rollouts -> document        history -> rows -> a stream of lines
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from math import isfinite
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from nyquist.companion.page.kit.wording import machine_moment
from nyquist.companion.page.views import ModelView
from nyquist.companion.watch.candidate import Figure, Rollout
from nyquist.companion.watch.history import JSON_COLUMNS, TABLES, History
from nyquist.companion.watch.live import LiveLoad
from nyquist.companion.watch.record import Record
from nyquist.companion.watch.rollouts import Rollouts

WRITTEN_AT_ONCE = 500
MEDIA = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


class Api:
    """Answers programs.

    Args:
        views: gives every version that is served, as the pages show it.
        record: of the server, and of what was answered differently.
        rollouts: candidates of the models.
        history: of everything.
        live: what the server answers.
    """

    def __init__(
        self,
        views: Callable[[], list[ModelView]],
        record: Record,
        rollouts: Rollouts,
        history: History,
        live: LiveLoad,
    ) -> None:
        self._views, self._record, self._live = views, record, live
        self._rollouts, self._history = rollouts, history

    def routes(self) -> Sequence[BaseRoute]:
        """Return what is answered, all of it below /api/."""
        return [
            Route("/models", self.models),
            Route("/load", self.load),
            Route("/disagreements", self.disagreements),
            Route("/rollouts", self.rollouts),
            Route("/rollouts/{model}", self.rollout),
            Route("/{table}.{form}", self.table),
        ]

    def models(self, _: Request) -> Response:
        """Answer with how the server is to reach, and every version with its latest figures."""
        server = self._record.server()
        models = [_model(view) for view in self._views()]
        return as_document({"server": asdict(server), "models": models})

    def load(self, _: Request) -> Response:
        """Answer with what the server answers now, or why that is not known."""
        return as_document(
            {
                "address": self._live.address,
                "reason": self._live.reason,
                "models": [
                    {
                        "model": one.version[0],
                        "version": one.version[1],
                        "requests_per_s": one.now.rate,
                        "rejected_per_s": one.now.rejected,
                        "waiting": one.waiting,
                        "p50_s": one.now.p50_s,
                        "p99_s": one.now.p99_s,
                        "requests_per_s_before": one.rates,
                        "p99_s_before": one.p99s_s,
                    }
                    for one in self._live.versions()
                ],
            }
        )

    def disagreements(self, request: Request) -> Response:
        """Answer with what was answered differently, of all models or of `?model=`; no pictures."""
        kept = self._record.disagreements(request.query_params.get("model", ""))
        return as_document(
            [
                {
                    "time_s": one.time_s,
                    "model": one.model,
                    "version": one.version,
                    "sha256": one.sha256,
                    "source": one.source,
                    "trace_id": one.trace_id,
                    "labels": one.labels,
                    "served": one.served.tolist(),
                    "reference": one.reference.tolist(),
                }
                for one in kept
            ]
        )

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


def as_document(values: Any) -> Response:  # noqa: ANN401 - whatever JSON has
    """Answer with values as JSON; what is not finite becomes null, which JSON has not."""
    return JSONResponse(_finite(values))


def _finite(values: Any) -> Any:  # noqa: ANN401 - likewise
    if isinstance(values, float):
        return values if isfinite(values) else None
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return values


def _model(view: ModelView) -> dict[str, Any]:
    state = view.state
    return {
        "model": state.name,
        "version": state.version,
        "sha256": state.sha256,
        "provider": state.provider,
        "verdict": state.verdict.value,
        "reason": state.reason,
        "since_s": state.since_s,
        "probed_s": state.probed_s,
        "parity": asdict(view.parity),
        "consistency": asdict(view.consistency),
        "latency": [asdict(one) for one in view.latency],
        "traffic": asdict(view.traffic),
        "probe": asdict(state.probe),
        "shadow": asdict(state.shadow) if state.shadow else None,
    }


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
