"""The calls that look after models and server: repository, statistics, settings.

They are small and rare; none of them touches an inference request.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from nyquist.server.artifact.manifest import MODEL_FILE
from nyquist.server.front.calls import Behaviour, Context
from nyquist.server.front.request_version import version_number
from nyquist.server.serving.registry import Registry, Serving
from nyquist.server.telemetry.log_control import LogControl
from nyquist.server.telemetry.trace_settings import TraceSettings
from nyquist.server.wire.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    NotServed,
    PollingEnabled,
    Stopping,
)
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import model_config_pb2

POLLING = "explicit model load / unload is not allowed if polling is enabled"
NO_SHARED_MEMORY = "shared memory is not served; tensors travel in messages"
SHARED_MEMORY_CALLS: dict[str, type[Message]] = {
    f"{kind}SharedMemory{verb}": getattr(pb, f"{kind}SharedMemory{verb}Request")
    for kind in ("System", "Cuda")
    for verb in ("Status", "Register", "Unregister")
}


class ControlCalls:
    """The extensions beside inference.

    Args:
        registry: what is served.
        logs: of the process.
        traces: what is traced.
        polling: the repository is looked at from time to time, so that callers must not.
        overrides: whether a load may bring a configuration.
    """

    def __init__(
        self,
        registry: Registry,
        logs: LogControl,
        traces: TraceSettings,
        *,
        polling: bool,
        overrides: bool = False,
    ) -> None:
        self._overrides = overrides
        self._registry, self._logs, self._polling = registry, logs, polling
        self._traces = traces
        self._stopping = False

    def calls(self) -> dict[str, tuple[Behaviour, type[Message]]]:
        """Return each call with the type of its request."""
        calls: dict[str, tuple[Behaviour, type[Message]]] = {
            "ModelConfig": (self.model_config, pb.ModelConfigRequest),
            "ModelStatistics": (self.model_statistics, pb.ModelStatisticsRequest),
            "RepositoryIndex": (self.repository_index, pb.RepositoryIndexRequest),
            "RepositoryModelLoad": (self.repository_model_load, pb.RepositoryModelLoadRequest),
            "RepositoryModelUnload": (
                self.repository_model_unload,
                pb.RepositoryModelUnloadRequest,
            ),
            "TraceSetting": (self.trace_setting, pb.TraceSettingRequest),
            "LogSettings": (self.log_settings, pb.LogSettingsRequest),
        }
        for name, request in SHARED_MEMORY_CALLS.items():
            calls[name] = (self.shared_memory, request)
        return calls

    def stop(self) -> None:
        """Load and unload nothing any more."""
        self._stopping = True

    async def model_config(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """Return a model's config.pbtxt, with what its manifest adds."""
        serving = self._registry.find(request.name, version_number(request.version))
        return pb.ModelConfigResponse(config=completed_config(serving))

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Return the counters of one version, of one model, or of all."""
        number = version_number(request.version)
        if request.name and number is not None:
            found = [self._registry.find(request.name, number)]
        elif request.name:
            found = self._registry.served(request.name) or [self._registry.find(request.name, None)]
        else:
            names = self._registry.names
            found = [serving for name in names for serving in self._registry.served(name)]
        return pb.ModelStatisticsResponse(model_stats=[_statistics(serving) for serving in found])

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """List the models of the repository, and how each of their versions is."""
        if request.repository_name:
            raise NotServed("'repository_name' specification is not supported")
        entries = await self._registry.index(ready_only=request.ready)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name,
                    version=entry.version,
                    state=entry.state,
                    reason=entry.reason,
                )
                for entry in entries
            ]
        )

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or what has changed of it; answer once it is served."""
        name = self._model_to_change(request.repository_name, request.model_name)
        await self._registry.load(name, self._override(request.parameters))
        return pb.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    def _override(self, parameters: Mapping[str, pb.ModelRepositoryParameter]) -> str:
        """Return the configuration that a load brings; empty where it brings none."""
        for key in parameters:
            if key.startswith("file:"):
                raise NotServed(
                    f"load parameter '{key[:40]}': files are read from the repository alone"
                )
            if key != "config":
                raise InvalidRequest(
                    f"unrecognized load parameter '{key[:40]}', there is 'config' alone"
                )
        if "config" not in parameters:
            return ""
        if not self._overrides:
            raise InvalidRequest(
                "load parameter 'config' is not taken: configurations are read from the "
                "repository alone, unless the server is started with --config-overrides"
            )
        config: str = parameters["config"].string_param
        if not config:
            raise InvalidRequest("load parameter 'config' takes JSON as its string_param")
        return config

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model; answer once its requests in flight have ended."""
        name = self._model_to_change(request.repository_name, request.model_name)
        for key, value in request.parameters.items():
            if key != "unload_dependents":
                raise InvalidRequest(f"unrecognized unload parameter '{key[:40]}'.")
            if value.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidRequest(
                    "invalid value type for 'unload_dependents' parameter, expected bool_param."
                )
        await self._registry.unload(name)
        return pb.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)

    async def trace_setting(
        self, request: pb.TraceSettingRequest, context: Context
    ) -> pb.TraceSettingResponse:
        """Change and return what is traced, of a model or of all."""
        if request.model_name:
            try:
                self._registry.find(request.model_name, None)
            except (ModelNotFound, ModelNotReady) as error:
                raise InvalidRequest(f"Request for unknown model : {request.model_name}") from error
        asked: Mapping[str, Any] = request.settings
        self._traces.update(
            request.model_name, {key: setting.value for key, setting in asked.items()}
        )
        return self._traces.message(request.model_name)

    async def log_settings(
        self, request: pb.LogSettingsRequest, context: Context
    ) -> pb.LogSettingsResponse:
        """Change what is logged and how, and return what holds."""
        self._logs.update(request.settings)
        return self._logs.message()

    async def shared_memory(self, request: Message, context: Context) -> Message:
        """Refuse: it is where the worst holes of other servers were."""
        raise NotServed(NO_SHARED_MEMORY)

    def _model_to_change(self, repository_name: str, model_name: str) -> str:
        """Return the model's name, which KServe's clients put into the other field."""
        if self._polling:
            raise PollingEnabled(POLLING)
        if self._stopping:
            raise Stopping("Server is stopping and loads and unloads nothing any more")
        if repository_name and model_name:
            raise NotServed("'repository_name' specification is not supported")
        return model_name or repository_name


def completed_config(serving: Serving) -> model_config_pb2.ModelConfig:
    """Return the configuration with the defaults that hold where it says nothing."""
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(serving.config)
    config.backend = config.backend or "onnxruntime"
    config.default_model_filename = config.default_model_filename or MODEL_FILE
    if not config.HasField("version_policy"):
        config.version_policy.latest.num_versions = 1
    return config


def _statistics(serving: Serving) -> pb.ModelStatistics:
    manifest = serving.model.described
    return serving.model.statistics.message(manifest.name, str(manifest.version))
