"""The composition root: everything is made here, started in this order and stopped in reverse.

metrics listener -> models (each warmed) -> gRPC -> ready ... not ready -> drain -> gRPC -> models
-> metrics listener
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from nyquist.server.front.access import Access, make_authorizer
from nyquist.server.front.asgi import Application
from nyquist.server.front.bodies import BodyLimits
from nyquist.server.front.calls import CallLimits, Calls
from nyquist.server.front.control_calls import ControlCalls
from nyquist.server.front.http_listener import HttpListener, open_socket
from nyquist.server.front.inference_service import SERVICE, InferenceService
from nyquist.server.front.lifecycle import Health, Status, run_beside, say_ready
from nyquist.server.front.reflection import describe
from nyquist.server.front.tls import make_credentials
from nyquist.server.front.transport import (
    add_port,
    make_grpc_server,
    request_bytes,
    request_limit,
    too_small_for,
)
from nyquist.server.runtime.arena import give_memory_back
from nyquist.server.runtime.gpu import gpu_metrics
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.serving.loading import LoadedModel, load_model
from nyquist.server.serving.registry import NOTHING_FETCHED, Registry, nothing_to_fetch
from nyquist.server.serving.served_model import ServedModel
from nyquist.server.serving.shadow import make_shadow
from nyquist.server.settings import PREFIX, Settings
from nyquist.server.sources.address import Address
from nyquist.server.sources.fetching import Sources, repository_of
from nyquist.server.telemetry.current_call import Call
from nyquist.server.telemetry.listener import metrics_address, metrics_listener
from nyquist.server.telemetry.log_control import LogControl
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.telemetry.trace_settings import TraceSettings
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.listening import address, remove_file
from nyquist.server.wire.pb import inference_pb2, model_config_pb2
from nyquist.server.wire.pictures import ImageDecoder
from nyquist.server.workers.fleet import Fleet

logger = logging.getLogger(__name__)

REFUSAL_S = 0.25
HEALTH_PERIOD_S = 1.0
GIVE_BACK_S = 10.0
"""Seconds between returns of free memory, while requests come; each takes some 20 ms of CPU."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def make_sources(settings: Settings, registry: CollectorRegistry) -> Sources | None:
    """Return what fetches the models of addresses; None where all repositories are folders.

    Args:
        settings: of the operator.
        registry: where it counts.
    """
    addresses = [one for one in settings.repository if isinstance(one, Address)]
    if not addresses:
        return None
    return Sources(
        addresses,
        settings.cache_folder,
        settings.source_timeout_s,
        registry,
        every_version=settings.config_overrides,
    )


def local_folders(settings: Settings) -> list[Path]:
    """Return the folders of all repositories, those included that models are fetched into."""
    return [
        one if isinstance(one, Path) else repository_of(one, settings.cache_folder)
        for one in settings.repository
    ]


class Server:
    """A running server. `async with Server(settings) as server` starts and stops it.

    Args:
        settings: of the operator.
        metrics: where it counts; None makes its own.
        listening: the socket of gRPC, which others listen on too; None opens one.
        fleet: the other processes of this server; None is without.

    Attributes:
        application: what answers on h2corn, once started; for those who carry calls themselves.
        port: of gRPC, once started; 0 where it has none.
        metrics_port: of the metrics, once started.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        listening: socket.socket | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        self._settings, self._listening, self._fleet = settings, listening, fleet
        self._authorizer, self._credentials = (
            make_authorizer(settings, settings.host, PREFIX),
            make_credentials(settings),
        )
        self._largest_request = 0
        self._metrics = metrics or Metrics()
        execution = Execution(
            settings.provider, settings.require_cuda, settings.threads, settings.workers
        )
        self._execution = execution
        self._images = ImageDecoder(settings.max_image_pixels)
        self._budget = QueueBudget(settings.max_queue_bytes)
        self._shadow = make_shadow(settings)
        self._sources = None if fleet else make_sources(settings, self._metrics.registry)
        self._registry = Registry(
            local_folders(settings),
            lambda folder, version, config: load_model(folder, execution, version, config),
            self._serve,
            self._metrics,
            settings.link_folder,
            self._sources.fetch if self._sources else nothing_to_fetch,
            strict=settings.strict_readiness,
        )
        traced = settings.tracing_endpoint is not None
        self._traces = TraceSettings(settings.tracing_ratio if traced else None)
        self._trace: Callable[[Call, str], None] | None = None
        logs = LogControl(logging.getLogger("nyquist"), logging.getLogger().handlers)
        control = ControlCalls(
            self._registry,
            logs,
            self._traces,
            polling=settings.poll_s > 0,
            overrides=settings.config_overrides,
        )
        self._control = control
        self._service = InferenceService(
            self._registry, control, settings.default_deadline_s or None, fleet
        )
        self._health = Health(self._statuses, gone=NOT_SERVING)
        self._stack = AsyncExitStack()
        self._listener: HttpListener | None = None
        self._listens = False
        self.application: Application | None = None
        self.port = 0
        self.metrics_port = 0

    async def __aenter__(self) -> "Server":
        try:
            if self._listening is None:
                # A taken port is found before anything is loaded, and without gRPC's page of log.
                self._stack.callback(remove_file, self._settings.host)
                open_socket(self._settings.host, self._settings.port).close()
            await self._start_metrics()
            self._start_tracing()
            self._start_shadow()
            await self._load_models()
            if self._fleet is not None:
                await self._fleet.join(self._control.calls(), self._metrics.registry)
            self._watch_gpus()
            await self._start_grpc()
            changed = partial(self._registry.wait_for_change, HEALTH_PERIOD_S)
            run_beside(self._stack, self._health.keep_true(changed))
            run_beside(self._stack, self._authorizer.keep_current())
            run_beside(self._stack, self._keep_small())
            if self._settings.poll_s:
                run_beside(self._stack, self._registry.keep_polling(self._settings.poll_s))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._listener is not None:  # which answers what it has let in
            self._service.end_streams()
        else:
            await self._refuse()
        await self._stack.aclose()
        logger.info(
            "stopped: %d requests accepted, %d finished",
            self._service.accepted,
            self._service.finished,
        )

    async def drain(self, seconds: float) -> None:
        """Say that the server is not ready, and serve on for those who have not heard yet."""
        self._service.draining = True
        await self._health.drain()
        if self._listener is not None:
            await self._listener.change_over()
        logger.info("draining for %g s: not ready, still answering", seconds)
        await asyncio.sleep(seconds)

    async def _refuse(self) -> None:
        """Turn new requests away with a status before gRPC does so without one.

        What lies unread in gRPC's own queue when its server stops is cancelled, which no client
        takes for a reason to try elsewhere.
        """
        self._service.refuse()
        await asyncio.sleep(REFUSAL_S)

    async def _start_metrics(self) -> None:
        settings = self._settings
        budget = self._budget
        self._metrics.watch_queue_bytes(lambda: budget.held_bytes, budget.max_bytes)
        if self._fleet is not None:
            return
        listener = metrics_listener(
            self._metrics.registry,
            lambda: self.ready,
            settings.scraped_host,
            settings.metrics_port,
        )
        self.metrics_port = await self._stack.enter_async_context(listener)

    def _watch_gpus(self) -> None:
        if gpus := self._stack.enter_context(gpu_metrics()):
            self._metrics.registry.register(gpus)

    async def _load_models(self) -> None:
        """Load the models; one that fails is logged and left out, unless CUDA is required."""
        settings = self._settings
        self._stack.callback(self._images.close)
        self._stack.push_async_callback(self._registry.close)
        fetched = NOTHING_FETCHED
        if self._sources:
            self._stack.callback(self._sources.close)
            fetched = await self._sources.start(settings.load)
        tried = await self._registry.load_all(settings.load, fetched)
        where = ", ".join(map(str, settings.repository))
        if tried and not self._registry.names:
            raise StartError(f"no model of {where} can be served")
        if (
            settings.load is not None or settings.config_overrides or not tried
        ):  # what comes later may need any size
            self._largest_request = settings.max_message_bytes
        if failed := self._registry.failed:
            so = (
                "not ready, as --no-strict-readiness makes it ready without them"
                if settings.strict_readiness
                else "ready without them"
            )
            names = ", ".join(failed)
            logger.error("%d of %d models are not served: %s; %s", len(failed), tried, names, so)
        if not tried:
            logger.warning("nothing of %s is served yet: %s", where, self._how_models_come())

    def _how_models_come(self) -> str:
        if self._settings.poll_s:
            return f"waiting for a look every {self._settings.poll_s:g} s"
        if self._authorizer.admits_some(Access.REPOSITORY):
            return "waiting for calls that load"
        return (
            "nobody may load and nobody looks; start again once it has models, or with --poll-s 10"
        )

    async def _keep_small(self) -> None:
        """Return the memory that requests have taken and need no more, from time to time."""
        given_back_at = -1  # what loading took is returned at once
        while True:
            if self._service.accepted != given_back_at:
                given_back_at = self._service.accepted
                await asyncio.to_thread(give_memory_back)
            await asyncio.sleep(GIVE_BACK_S)

    def _serve(self, loaded: LoadedModel) -> ServedModel:
        described, engine = loaded.described, loaded.engines[0]
        fell_back = any(instance.fell_back for instance in loaded.engines)
        metrics = self._metrics.model(described.name, str(described.version))
        metrics.describe(
            described.graph_sha256,
            described.opset,
            engine.provider,
            precision=described.precision,
            fell_back=fell_back,
        )
        metrics.queue_limit.set(sum(level.max_size for level in loaded.limits.levels))
        self._metrics.load_duration.labels(described.name, str(described.version)).set(
            loaded.load_s
        )
        batch_size = loaded.limits.max_batch_size
        self._largest_request = max(self._largest_request, request_bytes(described, batch_size))
        if line := too_small_for(described, batch_size, self._settings.max_message_bytes):
            logger.warning("%s", line)
        if fell_back:
            logger.warning("%s: CUDA was asked for and is not to be had", described.name)
        logger.info(
            "loaded %s version %d on %s in %.2f s",
            described.name,
            described.version,
            engine.provider,
            loaded.load_s,
        )
        mirror = self._shadow.of(described, metrics) if self._shadow else None
        return ServedModel(loaded, metrics, self._images, self._budget, mirror)

    @property
    def ready(self) -> bool:
        """Whether it answers, and is not about to end."""
        return self._listens and self._service.ready

    def _start_tracing(self) -> None:
        if self._settings.tracing_endpoint is None:
            return
        try:
            from nyquist.server.telemetry.tracing import Tracing  # of the extra tracing
        except ImportError as error:
            raise StartError("--tracing-endpoint needs the extra tracing of nyquist") from error
        tracing = Tracing(self._settings.tracing_endpoint, self._traces)
        self._stack.push_async_callback(asyncio.to_thread, tracing.close)
        self._trace = tracing.begin

    def _start_shadow(self) -> None:
        if self._shadow:
            self._stack.push_async_callback(asyncio.to_thread, self._shadow.close)
            self._shadow.start()

    def _statuses(self) -> Mapping[str, Status]:
        """Return how each model is, and the whole."""
        now = self._registry.readiness()
        if self._fleet is not None:
            self._fleet.tell({**now, "": self._service.alone_ready})
            now = {name: ready and self._fleet.ready(name) for name, ready in now.items()}
        now[""] = now[SERVICE] = self._service.ready
        return {name: SERVING if ready else NOT_SERVING for name, ready in now.items()}

    async def _start_grpc(self) -> None:
        settings = self._settings
        deadline_s = settings.default_deadline_s or None
        limits = CallLimits(settings.max_concurrent_rpcs, deadline_s)
        calls = Calls(self._metrics, self._authorizer, limits, self._trace)
        calls.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, calls)
        if settings.reflection != "off":
            describe(calls, model_config_pb2.DESCRIPTOR, inference_pb2.DESCRIPTOR)
        max_request_bytes = request_limit(self._largest_request, settings)
        await self._health.tell()
        if settings.transport == "h2corn":
            await self._listen_on_h2corn(calls, max_request_bytes)
        else:
            await self._listen_on_grpcio(calls, max_request_bytes)
        self._listens = True
        self._say_ready(max_request_bytes)

    async def _listen_on_grpcio(self, calls: Calls, max_request_bytes: int) -> None:
        settings = self._settings
        server = make_grpc_server(settings, calls, max_request_bytes, settings.grace_s)
        self.port = add_port(server, settings.host, settings.port, self._credentials)
        await server.start()
        self._stack.push_async_callback(server.stop, settings.grace_s)

    async def _listen_on_h2corn(self, calls: Calls, max_request_bytes: int) -> None:
        settings = self._settings
        limits = BodyLimits(max_request_bytes, all_bytes=settings.max_queue_bytes)
        self.application = application = Application(
            calls,
            limits,
            settings.max_metadata_bytes,
            self._service.signature,
            settings.cors_origin,
        )
        listening = self._listening or open_socket(settings.host, settings.port)
        listener = HttpListener(application, settings, settings, listening, settings.grace_s)
        self.port = listener.port
        await listener.start()
        self._listener = listener
        self._stack.push_async_callback(listener.close)
        run_beside(self._stack, listener.keep_young())
        run_beside(self._stack, listener.keep_certified())

    def _say_ready(self, max_request_bytes: int) -> None:
        settings = self._settings
        models = {
            name: ", ".join(
                f"version {one.model.described.version} on {one.model.provider}"
                for one in self._registry.served(name)
            )
            for name in self._registry.names
        }
        if self._fleet is None:
            also = f"metrics on {metrics_address(settings.scraped_host, self.metrics_port)}"
        else:
            also = f"as worker {self._fleet.number} of {settings.workers}"
        say_ready(
            f"{len(models)} models, gRPC on {address(settings.host, self.port)}, {also}",
            settings.host,
            settings,
            self._authorizer,
            models=models,
            reflection=settings.reflection,
            tracing=settings.tracing_endpoint or "off",
            shadow=settings.shadow_target if self._shadow else "off",
            max_request_bytes=max_request_bytes,
        )
