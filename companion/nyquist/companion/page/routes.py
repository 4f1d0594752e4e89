"""The pages as routes: an overview, one a model, and the build report, all of them to read only."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import time

from jinja2 import Environment, PackageLoader
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from nyquist.companion.page.api import Api
from nyquist.companion.page.candidates import RolloutView, view_of
from nyquist.companion.page.charts import spark
from nyquist.companion.page.kit import wording
from nyquist.companion.page.kit.templates import page_templates
from nyquist.companion.page.report import ReportFiles, has_page
from nyquist.companion.page.views import ModelView, Traffic, look_at, traffic, worst_first
from nyquist.companion.watch.history import History
from nyquist.companion.watch.live import LiveLoad
from nyquist.companion.watch.record import Record
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.artifact.built import circular_of, one_pixel_of

LATEST = 3
"""Disagreements on the overview."""

LATEST_OF_A_MODEL = 12
LAST_PROBES = 20
"""Rows of the table of probes."""

RELOAD_S = 5


class Pages:
    """Draws the pages of a record.

    Args:
        record: what was seen.
        rollouts: candidates of the models.
        registry: of the metrics, which count live traffic.
        report: folder of the build report; it need not exist.
        live: what the server answers.
        callers_pictures: whether those of live traffic are shown.
    """

    def __init__(
        self,
        record: Record,
        rollouts: Rollouts,
        registry: CollectorRegistry,
        report: Path,
        live: LiveLoad,
        *,
        callers_pictures: bool,
    ) -> None:
        self._record, self._rollouts = record, rollouts
        self._registry, self._report, self._live = registry, report, live
        self._look_at = partial(look_at, callers_pictures=callers_pictures)
        self._environment = environment()

    def overview(self, request: Request) -> Response:
        """Answer with all models at a glance."""
        views = worst_first(self.views())
        latest = self._record.disagreements()[:LATEST]
        verdicts = [view.state.verdict for view in views]
        return self._draw(
            request,
            "overview.html",
            root="",
            views=views,
            counts={one: verdicts.count(one) for one in Verdict if one in verdicts},
            disagreements=[self._look_at(one) for one in latest],
            candidates=self._candidates(),
            names={view.state.name for view in views},
            live=self._live,
            index=has_page(self._report, "index"),
        )

    def model(self, request: Request) -> Response:
        """Answer with every served version of a model, or with 404 and those that there are."""
        name = request.path_params["name"]
        known = self.views()
        views = [view for view in known if view.state.name == name]
        if not views:
            names = list(dict.fromkeys(view.state.name for view in known))
            return self._draw(request, "missing.html", 404, root="../", missing=name, names=names)
        latest = self._record.disagreements(name)
        return self._draw(
            request,
            "model.html",
            root="../",
            name=name,
            views=views,
            disagreements=[self._look_at(one) for one in latest[:LATEST_OF_A_MODEL]],
            kept=len(latest),
            candidates=self._candidates(name),
            report=has_page(self._report, name),
            last_probes=LAST_PROBES,
        )

    def rollout(self, request: Request) -> Response:
        """Answer with the candidate of a model, or with 404 and the models that have one."""
        name = request.path_params["name"]
        candidates = self._candidates(name)
        if not candidates:
            names = [one.rollout.pair.model for one in self._candidates()]
            return self._draw(
                request, "no_rollout.html", 404, root="../", missing=name, names=names
            )
        differences = self._rollouts.differences(candidates[0].rollout.pair)
        return self._draw(
            request,
            "rollout.html",
            root="../",
            candidate=candidates[0],
            limits=self._rollouts.limits,
            differences=[self._look_at(one) for one in differences[:LATEST_OF_A_MODEL]],
            kept=len(differences),
        )

    def style(self, _: Request) -> Response:
        """Answer with the style sheet of all pages."""
        text = self._environment.get_template("page.css").render()
        return Response(text, media_type="text/css")

    def _candidates(self, name: str = "") -> list[RolloutView]:
        return [view_of(one, self._rollouts.limits) for one in self._rollouts.rollouts(name)]

    def views(self) -> list[ModelView]:
        """Return every version that is served."""
        counts = traffic(self._registry)
        return [
            ModelView(state, self._record.history(*state.key), counts.get(state.key, Traffic()))
            for state in self._record.models()
        ]

    def _draw(
        self, request: Request, template: str, status: int = 200, **values: object
    ) -> HTMLResponse:
        text = self._environment.get_template(template).render(
            server=self._record.server(),
            now_s=time(),
            reload_s=RELOAD_S if "reload" in request.query_params else None,
            **values,
        )
        return HTMLResponse(text, status)


def routes(
    record: Record,
    rollouts: Rollouts,
    history: History,
    registry: CollectorRegistry,
    report: Path,
    live: LiveLoad,
    *,
    callers_pictures: bool,
) -> Sequence[BaseRoute]:
    """Return the pages that show a record, the files of a build report, and what programs ask for.

    Args:
        record: what was seen.
        rollouts: candidates of the models.
        history: of everything, to be downloaded.
        registry: of the metrics, which count live traffic.
        report: folder of the build report; it need not exist.
        live: what the server answers.
        callers_pictures: whether those of live traffic are shown.
    """
    pages = Pages(record, rollouts, registry, report, live, callers_pictures=callers_pictures)
    return [
        Route("/", pages.overview),
        Route("/models/{name}", pages.model),
        Route("/rollouts/{name}", pages.rollout),
        Route("/page.css", pages.style),
        Mount("/report", ReportFiles(report)),
        Mount("/api", routes=Api(pages.views, record, rollouts, history, live).routes()),
    ]


def environment() -> Environment:
    """Return the templates, with the words for figures."""
    made = page_templates(PackageLoader("nyquist.companion", "page/templates"))
    made.filters |= {
        "age": wording.age,
        "built": wording.built,
        "circular_of": circular_of,
        "fine_percent": wording.fine_percent,
        "hundredths": wording.hundredths,
        "logit": wording.logit,
        "machine_moment": wording.machine_moment,
        "milliseconds": wording.milliseconds,
        "moment": wording.moment,
        "one_pixel_of": one_pixel_of,
        "percent": wording.percent,
        "rate": lambda value: f"{value:.3g}" if value < 100 else f"{value:.0f}",
        "sentence": lambda words: words[:1].upper() + words[1:],
        "short": wording.short,
        "signed": wording.signed,
        "spark": spark,
        "words": lambda name: name.replace("_", " "),
    }
    return made
