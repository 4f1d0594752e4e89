"""The companion that runs: everything is made here, started in this order, stopped in reverse.

HTTP -> probes, live traffic -> gRPC ... not serving -> drain -> gRPC -> the others -> HTTP
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from threading import Event, Thread

from grpc_health.v1 import health_pb2, health_pb2_grpc

from nyquist.client.client import Client
from nyquist.client.load import read
from nyquist.companion.page.guard import hosts
from nyquist.companion.page.kit import report_folder
from nyquist.companion.page.lab.routes import Lab
from nyquist.companion.page.lab.served import Models, Target
from nyquist.companion.page.routes import routes
from nyquist.companion.page.web import WebListener, application
from nyquist.companion.references.given import read_reference
from nyquist.companion.references.repository import References
from nyquist.companion.references.subjects import Subjects
from nyquist.companion.service.shadow_service import ShadowService
from nyquist.companion.service.validation_service import ValidationService
from nyquist.companion.settings import Settings
from nyquist.companion.watch.history import Bounds, History
from nyquist.companion.watch.live import LiveLoad
from nyquist.companion.watch.metrics import Metrics, RolloutCollector, StandingCollector
from nyquist.companion.watch.pace import Pace
from nyquist.companion.watch.probe import Prober
from nyquist.companion.watch.record import Record
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.companion.watch.shadow import Mirrored, ShadowWorker
from nyquist.companion.watch.side_by_side import SideBySide
from nyquist.companion.watch.verdict import Verdict, worst
from nyquist.server.front.access import (
    Access,
    Authorizer,
    Tokens,
    TokenSource,
    standing_open,
)
from nyquist.server.front.calls import CallLimits, Calls
from nyquist.server.front.http_listener import open_socket
from nyquist.server.front.lifecycle import Health, Status, run_beside, say_ready
from nyquist.server.front.reflection import describe
from nyquist.server.front.tls import make_credentials
from nyquist.server.front.transport import add_port, make_grpc_server
from nyquist.server.settings import COMPANION_PREFIX
from nyquist.server.wire.byte_queue import ByteQueue
from nyquist.server.wire.connection import (
    CLIENT,
    Connection,
    Source,
    WrongConnection,
    is_loopback,
)
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.listening import address
from nyquist.server.wire.pb import shadow_pb2, shadow_pb2_grpc, validation_pb2, validation_pb2_grpc

logger = logging.getLogger(__name__)

HEALTH_PERIOD_S = 0.5
UNKNOWN_SERVICE = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
PROBE_TIMEOUT_S = 10.0
DAY_S = 86400.0
STATUS = {
    Verdict.HEALTHY: health_pb2.HealthCheckResponse.SERVING,
    Verdict.MEASURING: health_pb2.HealthCheckResponse.UNKNOWN,
    Verdict.DEGRADED: health_pb2.HealthCheckResponse.SERVING,
    Verdict.FAILING: health_pb2.HealthCheckResponse.NOT_SERVING,
    Verdict.UNVERIFIABLE: health_pb2.HealthCheckResponse.UNKNOWN,
}


class Companion:
    """A running companion. `async with Companion(settings)` starts and stops it.

    Attributes:
        port: of gRPC, once started.
        http_port: of HTTP, once started.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._authorizer, self._credentials = make_authorizer(settings), make_credentials(settings)
        self._client = connect(settings, "probe")
        self._asking_again = connect(settings, "shadow")
        self._history = open_history(settings)
        self._metrics = Metrics(settings.probe_period_s)
        self._references = References(settings.repository)
        file = settings.reference
        given = read_reference(file, settings.output or "") if file else None
        self._subjects = Subjects(
            self._client, self._references, settings.told, settings.model, given
        )
        self._record = Record(
            settings.target,
            settings.history,
            settings.disagreements,
            settings.disagreement_bytes,
            self._history,
        )
        self._rollouts = Rollouts(settings.rollout_limits, self._history)
        for collector in (StandingCollector(self._record), RolloutCollector(self._rollouts)):
            self._metrics.registry.register(collector)
        self._queue: Mirrored = ByteQueue(
            settings.shadow_queue,
            settings.shadow_queue_bytes,
            lambda inference: inference.ByteSize(),
        )
        self._live = make_live(settings)
        self._stopped = Event()
        self._side_by_side = SideBySide(
            self._subjects, self._rollouts, settings.rollout_rate, self._stopped
        )
        self._health = Health(self._statuses, gone=UNKNOWN_SERVICE)
        self._stack = AsyncExitStack()
        self.port = 0
        self.http_port = 0

    async def __aenter__(self) -> "Companion":
        try:
            open_socket(self._settings.host, self._settings.port).close()
            self._stack.callback(self._history.close)
            self._stack.callback(self._client.close)
            self._stack.callback(self._asking_again.close)
            self._start_http()
            self._start_probes()
            self._start_shadow()
            await self._start_grpc()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()
        logger.info("stopped")

    async def drain(self, seconds: float) -> None:
        """Say that the companion is not serving, and go on for those who have not heard yet."""
        await self._health.drain()
        logger.info("draining for %g s", seconds)
        await asyncio.sleep(seconds)

    def _start_http(self) -> None:
        settings = self._settings
        registry, report = self._metrics.registry, report_folder(settings.repository)
        target = Target(connection_of(settings), self._client)
        lab = Lab(Models([target], settings.told, settings.model))
        self._stack.push_async_callback(asyncio.to_thread, lab.close)
        host = settings.http_host or settings.host
        shown = routes(
            self._record,
            self._rollouts,
            self._history,
            registry,
            report,
            self._live,
            callers_pictures=is_loopback(host) or not self._authorizer.lets_all(Access.USE),
        )
        allows = hosts(settings.allowed_hosts, host)
        app = application(registry, [*shown, *lab.routes()], allows, self._authorizer)
        listener = WebListener(app, host, settings.http_port)
        self.http_port = listener.port
        self._stack.push_async_callback(asyncio.to_thread, listener.close)

    def _start_probes(self) -> None:
        settings = self._settings
        pace = Pace(settings.core_share, self._stopped)
        prober = Prober(
            self._subjects, self._metrics, self._record, self._rollouts, pace, self._stopped
        )
        work = partial(prober.run, settings.probe_period_s, settings.probe_shifts)
        self._run_in_thread("probe", work)
        look = Pace(settings.core_share, self._stopped).paced(self._live.look)
        self._run_in_thread("live", partial(self._live.run, self._stopped, look))

    def _start_shadow(self) -> None:
        settings = self._settings
        worker = ShadowWorker(
            self._queue,
            self._asking_again,
            self._references,
            self._metrics,
            self._record,
            Pace(settings.core_share, self._stopped),
            settings.shadow_rate,
            settings.shadow_window,
        )
        self._run_in_thread("shadow", worker.run)
        self._stack.callback(self._queue.close)
        self._run_in_thread("rollouts", self._side_by_side.run)
        self._stack.callback(self._side_by_side.close)

    def _run_in_thread(self, name: str, work: Callable[[], None]) -> None:
        """Run work that heeds `stopped` until the companion stops."""
        thread = Thread(target=work, name=name)
        thread.start()
        self._stack.push_async_callback(asyncio.to_thread, thread.join)
        self._stack.callback(self._stopped.set)

    async def _start_grpc(self) -> None:
        settings = self._settings
        limits = CallLimits(settings.max_concurrent_rpcs, settings.default_deadline_s or None)
        calls = Calls(self._metrics, self._authorizer, limits)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, calls)
        shadow = ShadowService(self._queue, self._record, self._metrics, self._side_by_side)
        shadow_pb2_grpc.add_ShadowServicer_to_server(shadow, calls)
        validation = ValidationService(self._subjects, self._record)
        self._stack.push_async_callback(asyncio.to_thread, validation.close)
        validation_pb2_grpc.add_ValidationServicer_to_server(validation, calls)
        if settings.reflection != "off":
            describe(calls, shadow_pb2.DESCRIPTOR, validation_pb2.DESCRIPTOR)
        server = make_grpc_server(settings, calls, settings.max_message_bytes, settings.grace_s)
        self.port = add_port(server, settings.host, settings.port, self._credentials)
        await self._health.tell()
        await server.start()
        self._stack.push_async_callback(server.stop, settings.grace_s)
        self._stack.callback(shadow.stop)
        run_beside(self._stack, self._health.keep_true(partial(asyncio.sleep, HEALTH_PERIOD_S)))
        run_beside(self._stack, self._authorizer.keep_current())
        say_ready(
            f"watching {settings.target}, gRPC on {address(settings.host, self.port)}, HTTP on "
            f"http://{address(settings.http_host or settings.host, self.http_port)}/",
            settings.host,
            settings,
            self._authorizer,
            repository=str(settings.repository),
            probe_period_s=settings.probe_period_s,
        )

    def _statuses(self) -> Mapping[str, Status]:
        """Return the worst verdict on each model's versions, and that the companion serves."""
        verdicts: dict[str, list[Verdict]] = {}
        for state in self._record.models():
            verdicts.setdefault(state.name, []).append(state.verdict)
        found = {name: STATUS[worst(of)] for name, of in verdicts.items()}
        return {"": health_pb2.HealthCheckResponse.SERVING, **found}


def make_authorizer(settings: Settings) -> Authorizer:
    """Return who may call the companion: whoever has the token, or all where there is none."""
    use = TokenSource(settings, "token", COMPANION_PREFIX)
    renewed = (lambda: Tokens(use.renewed())) if use.path else None
    closed = frozenset({Access.REPOSITORY})
    return Authorizer(Tokens(use.digests), closed, standing_open(settings), renewed)


def open_history(settings: Settings) -> History:
    """Return what outlives a restart, in the folder of the settings or in memory.

    Raises:
        StartError: the folder cannot be used.
    """
    if not settings.state:
        return History()
    return History(settings.state, Bounds(DAY_S * settings.state_days, settings.state_bytes))


def make_live(settings: Settings) -> LiveLoad:
    """Return what reads the server's metrics, of callers' requests alone."""
    if settings.metrics_address is None:
        return LiveLoad(None, "")
    host, port = settings.metrics_address
    return LiveLoad(partial(read, host, port, CLIENT), address(host, port))


def connect(settings: Settings, source: Source) -> Client:
    """Return a client of the server that is watched.

    Args:
        settings: that say where it is.
        source: what the calls are counted as there.

    Raises:
        StartError: what the settings say of the way there cannot be used.
    """
    try:
        return Client(connection_of(settings), PROBE_TIMEOUT_S, source=source)
    except WrongConnection as error:
        raise StartError(f"the way to the server: {error}") from error


def connection_of(settings: Settings) -> Connection:
    """Return the way to the server. Raises WrongConnection where the settings contradict it."""
    return Connection(
        target=settings.target,
        ca=settings.target_ca,
        client_certificate=settings.target_client_certificate,
        client_key=settings.target_client_key,
        token_file=settings.target_token_file,
    )
