"""The lab over HTTP: its page, its modules, what it can be asked about, and runs as NDJSON.

POST /lab/run: a line of JSON, then the picture files -> a line of JSON for each event
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib.resources import files
from pathlib import Path

from jinja2 import PackageLoader
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from nyquist.companion.page.kit.templates import page_templates
from nyquist.companion.page.lab.animation import animate
from nyquist.companion.page.lab.moves import Stopped
from nyquist.companion.page.lab.run import Event, Run
from nyquist.companion.page.lab.served import Models
from nyquist.companion.page.lab.wishes import MAX_BODY_BYTES, Wish, read_wish
from nyquist.server.wire.errors import NyquistError, Stopping

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the page alone: it runs the modules that lie here, and talks to nobody else."""

MAX_RUNS = 2
"""At once; each takes a thread, and a call of the server at a time. One that is read counts too."""

READ_S = 60
"""Until all of a run must have come."""

BODY_TYPE = "application/octet-stream"
"""Of a run. No page of another origin can send it without asking first, which is not answered."""

SAMPLES = ("photographs", "fashion")
RETRY_S = 5


class Lab:
    """The lab of some servers. Close it.

    Args:
        models: that can be asked.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._templates = page_templates(PackageLoader("nyquist.companion", "page/lab"))
        self._data = Path(str(files("nyquist.models"))) / "data"
        self._pool = ThreadPoolExecutor(MAX_RUNS, thread_name_prefix="lab")
        self._taken = 0
        self._closed = False

    def close(self) -> None:
        """End the runs that are under way, each after its call."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)

    def routes(self) -> Sequence[BaseRoute]:
        """Return what answers below /lab."""
        return [
            Route("/lab", self.page),
            Route("/lab/lab.css", self.style),
            Route("/lab/models", self.models),
            Route("/lab/samples", self.samples),
            Route("/lab/samples/{group}/{name}", self.sample),
            Route("/lab/run", self.run, methods=["POST"]),
            Route("/lab/animation", self.animation, methods=["POST"]),
            Mount("/lab", StaticFiles(directory=Path(__file__).parent / "static")),
        ]

    def page(self, _: Request) -> Response:
        """Answer with the page."""
        text = self._templates.get_template("lab.html").render()
        policy = {"content-security-policy": POLICY}
        return Response(text, media_type="text/html", headers=policy)

    def style(self, _: Request) -> Response:
        """Answer with its style sheet."""
        return Response(self._templates.get_template("lab.css").render(), media_type="text/css")

    def models(self, _: Request) -> Response:
        """Answer with every model that can be asked, and why others cannot."""
        return JSONResponse(self._models.listed())

    def samples(self, _: Request) -> Response:
        """Answer with the pictures that come with Nyquist."""
        return JSONResponse(
            [
                {"group": group, "name": path.stem}
                for group in SAMPLES
                for path in sorted((self._data / group).glob("*.png"))
            ]
        )

    def sample(self, request: Request) -> Response:
        """Answer with one of them, as PNG."""
        group, name = request.path_params["group"], request.path_params["name"]
        known = (
            {path.stem: path for path in (self._data / group).glob("*.png")}
            if group in SAMPLES
            else {}
        )
        if name not in known:
            raise HTTPException(404, f"no sample {group}/{name}; /lab/samples lists them")
        return Response(known[name].read_bytes(), media_type="image/png")

    async def run(self, request: Request) -> Response:
        """Answer with the events of a run, a line each; it ends when its caller leaves."""
        read = await self._wish(request)
        if isinstance(read, Response):
            return read
        return StreamingResponse(self._events(*read), media_type="application/x-ndjson")

    async def animation(self, request: Request) -> Response:
        """Answer with a slide as GIF."""
        read = await self._wish(request)
        if isinstance(read, Response):
            return read
        wish, pictures = read
        with self._place() as stopped:
            work = partial(animate, self._models, wish, pictures[0], stopped)
            try:
                made = await asyncio.get_running_loop().run_in_executor(self._pool, work)
            except NyquistError as error:
                return _refused(400, str(error))
        return Response(made, media_type="image/gif")

    @contextmanager
    def _place(self) -> Iterator[Stopped]:
        """Take one of the places; yield what says whether the lab is closed."""
        self._taken += 1
        try:
            yield lambda: self._closed
        finally:
            self._taken -= 1

    async def _wish(self, request: Request) -> tuple[Wish, list[bytes]] | Response:
        """Read what is asked for, or say why it is not done."""
        if request.headers.get("content-type") != BODY_TYPE:
            return _refused(415, f"a run is sent as {BODY_TYPE}")
        if not 0 < (length := _length(request)) <= MAX_BODY_BYTES:
            return _refused(413, f"a run has {MAX_BODY_BYTES} bytes at most, this one {length}")
        if self._taken >= MAX_RUNS:
            return _refused(429, f"{MAX_RUNS} runs are under way; wait until one is over")
        try:
            with self._place():
                async with asyncio.timeout(READ_S):
                    body = await request.body()  # no more than it says: h2corn holds it to that
            return read_wish(body)
        except TimeoutError:
            return _refused(408, f"the run did not come within {READ_S} s")
        except NyquistError as error:
            return _refused(400, str(error))

    async def _events(self, wish: Wish, pictures: list[bytes]) -> AsyncIterator[bytes]:
        ask = asyncio.get_running_loop().run_in_executor
        with self._place() as stopped, suppress(Stopping):
            events = Run(self._models, wish, pictures, stopped).events()
            while (event := await ask(self._pool, next, events, None)) is not None:
                yield _line(event)


def _length(request: Request) -> int:
    said = request.headers.get("content-length", "")
    return int(said) if said.isdecimal() else 0


def _line(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def _refused(status: int, message: str) -> Response:
    headers = {"retry-after": str(RETRY_S)} if status == 429 else None
    return JSONResponse({"error": message}, status, headers)
