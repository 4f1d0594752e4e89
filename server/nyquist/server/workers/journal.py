"""What workers were told, for one that comes later: as short as what now holds.

call -> of each model its last load or unload; of settings what was last chosen of each -> replay
"""

from collections.abc import Iterator

from google.protobuf.message import Message

from nyquist.server.wire.pb import inference_pb2 as pb

Settings = pb.TraceSettingRequest | pb.LogSettingsRequest


class Journal:
    """Calls that change a worker, without those that later ones made void.

    >>> journal = Journal()
    >>> for rate in ("7", "9"):
    ...     request = pb.TraceSettingRequest(model_name="a")
    ...     request.settings["trace_rate"].value.append(rate)
    ...     journal.note("TraceSetting", request)
    >>> [request.settings["trace_rate"].value[0] for _, request in journal]
    ['9']
    """

    def __init__(self) -> None:
        self._models: dict[str, tuple[str, Message]] = {}
        self._settings: dict[tuple[str, str], Settings] = {}

    def note(self, name: str, request: Message) -> None:
        """Remember a call that all workers have done; one that only reads settings is none."""
        if isinstance(request, Settings):
            model = request.model_name if isinstance(request, pb.TraceSettingRequest) else ""
            if not request.settings:
                return
            held = self._settings.setdefault((name, model), request)
            for key in request.settings:
                held.settings[key].CopyFrom(request.settings[key])  # type: ignore[arg-type] # alike
        elif isinstance(request, pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest):
            self._models[request.model_name or request.repository_name] = (name, request)

    def __iter__(self) -> Iterator[tuple[str, Message]]:
        """Return the calls to do, models first: their settings need them."""
        yield from self._models.values()
        for (name, _), request in self._settings.items():
            yield name, request
