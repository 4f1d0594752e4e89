"""The models that are served, by name and version, and how they come and go.

load: version policy -> the new one loaded and warmed -> swapped in -> the old one drained, closed
unload: no new requests -> those in flight end -> closed -> memory given back

A name that comes from a caller is looked up among the folders that are there; it is never made
part of a path.
"""

import asyncio
import gc
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nyquist.server.artifact.layout import (
    OVERRIDE,
    ConfigFile,
    model_folders,
    overriding_config,
    passed_over,
    read_config_file,
)
from nyquist.server.artifact.versions import Mark, mark_of
from nyquist.server.runtime.arena import give_memory_back
from nyquist.server.serving.loading import LoadedModel
from nyquist.server.serving.served_model import ServedModel
from nyquist.server.sources.fetching import Fetched
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import (
    ArtifactError,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    NyquistError,
    StartError,
    Stopping,
)
from nyquist.server.wire.pb import model_config_pb2

WORKER_DIED = "the model's worker has died, fails, or does not come back from a run"
UNLOADED = "unloaded"
NOT_THERE = "it is not in the repository"

_ABSOLUTE_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s'\":]+/)*")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")

Loader = Callable[[Path, int, ConfigFile], LoadedModel]
Fetch = Callable[[Sequence[str] | None], Awaitable[Fetched]]


NOTHING_FETCHED = Fetched()


async def nothing_to_fetch(names: Sequence[str] | None) -> Fetched:
    """Leave the repositories as they are."""
    del names
    return NOTHING_FETCHED


logger = logging.getLogger(__name__)


class Serving:
    """One loaded version; `with` it for each request that uses it.

    Attributes:
        model: what answers.
        config: its config.pbtxt.
        mark: of the files that it was loaded from.
    """

    def __init__(
        self, model: ServedModel, config: model_config_pb2.ModelConfig, mark: Mark
    ) -> None:
        self.model, self.config, self.mark = model, config, mark
        self._users, self._retired = 0, False
        self._idle = asyncio.Event()

    def __enter__(self) -> ServedModel:
        """Keep the model open for the length of a request."""
        self._users += 1
        return self.model

    def __exit__(self, *exception: object) -> None:
        self._users -= 1
        if self._retired and not self._users:
            self._idle.set()

    async def retire(self) -> None:
        """Wait for the requests in flight, then close the model. None may start any more."""
        self._retired = True
        if self._users:
            await self._idle.wait()
        await self.model.close()


@dataclass(eq=False)
class _Version:
    """What is known of one version."""

    serving: Serving | None = None
    busy: str = ""
    reason: str = ""

    @property
    def state(self) -> str:
        if self.serving is None:
            return self.busy or "UNAVAILABLE"
        return "READY" if self.serving.model.ready else "UNAVAILABLE"

    @property
    def why(self) -> str:
        return WORKER_DIED if self.serving and self.state == "UNAVAILABLE" else self.reason


@dataclass(eq=False)
class _Model:
    """What is known of one model: its versions, and the files as they last were."""

    versions: dict[int, _Version] = field(default_factory=dict)
    seen: Mark | None = None
    reason: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def failed(self) -> bool:
        """Whether a load of it has failed, and no other has succeeded since."""
        reasons = {self.reason, *(version.reason for version in self.versions.values())}
        return bool(reasons - {"", UNLOADED})

    @property
    def serving(self) -> list[Serving]:
        """What is served, the highest version first."""
        numbers = sorted(self.versions, reverse=True)
        return [found for number in numbers if (found := self.versions[number].serving)]


@dataclass(frozen=True)
class IndexEntry:
    """One line of the repository's index.

    Attributes:
        name: of the model.
        version: empty where none is known.
        state: LOADING, READY, UNLOADING or UNAVAILABLE; empty for a model never loaded.
        reason: why it is not ready.
    """

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class Registry:
    """The one owner of what is served.

    Args:
        repositories: folders of the models.
        loader: opens and warms one version; called in a thread.
        serve: makes a loaded model answer; called on the event loop.
        metrics: whose series of a model end with it.
        link_folders: outside the repositories, in which links may end.
        fetch: brings models, or all, into the repositories before they are looked at.
        strict: whether a model that was asked for and has failed keeps everything from being ready.
    """

    def __init__(
        self,
        repositories: Sequence[Path],
        loader: Loader,
        serve: Callable[[LoadedModel], ServedModel],
        metrics: Metrics,
        link_folders: Sequence[Path] = (),
        fetch: Fetch = nothing_to_fetch,
        *,
        strict: bool = True,
    ) -> None:
        self._link_folders, self._strict, self._fetch = link_folders, strict, fetch
        self._repositories, self._loader, self._serve = repositories, loader, serve
        self._metrics = metrics
        self._models: dict[str, _Model] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether everything that is served answers, and what should be served is.

        Where it is not strict: whether anything is that should be.
        """
        models = self._models.values()
        if self.failed and (self._strict or not self.names):
            return False
        return all(one.model.ready for model in models for one in model.serving)

    @property
    def failed(self) -> list[str]:
        """The models that were asked for and of which nothing is served, since a load failed."""
        return sorted(name for name, one in self._models.items() if one.failed and not one.serving)

    def readiness(self) -> dict[str, bool]:
        """Say for each model that is known whether some version of it answers."""
        return {
            name: any(one.model.ready for one in model.serving)
            for name, model in self._models.items()
        }

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until something has been loaded or unloaded, or for `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    def find(self, name: str, version: int | None) -> Serving:
        """Return what serves a model: the version asked for, or the highest that is ready.

        Raises:
            ModelNotFound: no such model or version is known, or none of it is served.
            ModelNotReady: the version is known and not served.
        """
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found")
        if version is None:
            serving = model.serving
            if not serving:
                raise ModelNotFound(
                    f"Request for unknown model: '{name}' has no available versions"
                )
            for one in serving:
                if one.model.ready:
                    return one
            return serving[0]
        known = model.versions.get(version)
        if known is None:
            raise ModelNotFound(
                f"Request for unknown model: '{name}' version {version} is not found"
            )
        if known.serving is None:
            raise ModelNotReady(
                f"Request for unknown model: '{name}' version {version} is not at ready state"
            )
        return known.serving

    def served(self, name: str) -> list[Serving]:
        """Return every version of a model that is served, the lowest first."""
        model = self._models.get(name)
        return model.serving[::-1] if model else []

    @property
    def names(self) -> list[str]:
        """The models of which some version is served."""
        return sorted(name for name, model in self._models.items() if model.serving)

    async def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        """List what is served, what could not be, and what lies in the repository beside it.

        Raises:
            NyquistError: the repository cannot be looked at.
        """
        entries = [
            entry
            for name, model in self._models.items()
            for entry in _entries(name, model)
            if entry.state == "READY" or not ready_only
        ]
        if not ready_only:
            try:
                names = {folder.name for folder in await self._folders()}
            except ArtifactError as error:
                raise NyquistError(self._public(error)) from error
            entries += [IndexEntry(name) for name in names - self._models.keys()]
        return sorted(entries, key=lambda entry: (entry.name, entry.version))

    async def load_all(
        self, names: Sequence[str] | None = None, fetched: Fetched = NOTHING_FETCHED
    ) -> int:
        """Load models; one that fails is logged and left out.

        Args:
            names: of them; None is every model of the repositories.
            fetched: what came of bringing them there.

        Returns:
            How many were to be loaded.

        Raises:
            StartError: CUDA is required and not to be had.
            ArtifactError: a repository is no folder.
        """
        folders = {folder.name: folder for folder in await self._folders()}
        wanted = dict.fromkeys([*folders, *fetched.failures] if names is None else names)
        for name in wanted:
            try:
                if name not in folders:
                    self._lacking(name, fetched.failures.get(name) or fetched.away or NOT_THERE)
                    raise _not_there(name)
                await self._bring_up(folders[name])
            except StartError:
                raise
            except NyquistError as error:
                logger.error("model %s is not served: %s", name, error)  # noqa: TRY400 - one line is all
        return len(wanted)

    async def load(self, name: str, config: str = "") -> None:
        """Load a model, or what has changed of it since it was loaded.

        A caller who leaves does not stop it half-way.

        Args:
            name: of the model.
            config: JSON in place of its config.pbtxt, until it is loaded again; empty: none.

        Raises:
            LoadFailed: it is not there or cannot be loaded; what was served still is. Where it
                cannot be fetched and nothing of it is served, what was fetched before is loaded.
        """
        fetched = await self._fetch([name])
        try:
            folders = {folder.name: folder for folder in await self._folders()}
        except ArtifactError as error:
            raise self._failed(name, self._public(error)) from error
        why = fetched.failures.get(name, "") if name in folders else fetched.away
        if why and (self.served(name) or name not in folders):
            raise self._failed(name, why)
        if name not in folders:
            raise _not_there(name)
        try:
            await self._finish(self._bring_up(folders[name], config))
        except StartError as error:
            raise self._failed(name, self._public(error)) from error

    async def unload(self, name: str) -> None:
        """Take no more requests for a model, answer those in flight, give its memory back.

        Raises:
            ModelNotFound: it was never loaded.
        """
        if name not in self._models:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found")
        await self._finish(self._take_down(name))

    async def poll(self) -> None:
        """Load what has appeared or changed, unload what is gone; one failure stops no other."""
        look = await self._look()
        if look is None:
            return
        folders, fetched = look
        for folder in folders:
            try:
                await self._poll_model(folder)
            except NyquistError as error:
                logger.error("model %s: %s", folder.name, error)  # noqa: TRY400 - one line is all
            except Exception:
                logger.exception("unexpected error in looking at %s", folder.name)
        there = {folder.name for folder in folders}
        for name in fetched.failures.keys() - there:
            self._lacking(name, fetched.failures[name])
        for name in self._models.keys() - there - fetched.failures.keys():
            logger.info("model %s is gone from the repository", name)
            await self._take_down(name)
            del self._models[name]
            self._metrics.load_failures.remove(name)
            self._metrics.failed.remove_by_labels({"model": name})

    async def _look(self) -> tuple[list[Path], Fetched] | None:
        """Return what is there now; None where that is nothing to go by."""
        try:
            fetched = await self._fetch(None)
            folders = await self._folders()
        except Stopping:
            return None
        except NyquistError as error:
            logger.error("the repository cannot be looked at: %s", error)  # noqa: TRY400 - one line is all
            return None
        if not folders and self.names:
            logger.error(
                "the repository holds no model any more, as where a mount is lost: what is "
                "served is served on"
            )
            return None
        return folders, fetched

    async def keep_polling(self, interval_s: float) -> None:
        """Poll again `interval_s` after each time."""
        while True:
            await asyncio.sleep(interval_s)
            await self._finish(self.poll())

    async def close(self) -> None:
        """Let loads that run end, then close every model."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for model in self._models.values():
            for serving in model.serving:
                await serving.retire()

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` to its end, also if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _folders(self) -> list[Path]:
        try:
            return await asyncio.to_thread(model_folders, *self._repositories)
        except OSError as error:
            raise ArtifactError(f"{error.filename} cannot be read: {error.strerror}") from error

    async def _poll_model(self, folder: Path) -> None:
        known = self._models.get(folder.name)
        if known and known.seen == await asyncio.to_thread(mark_of, folder):
            return
        await self._bring_up(folder)

    async def _bring_up(self, folder: Path, config: str = "") -> None:
        """Do as `_load_wanted` does, and count it if it fails."""
        try:
            with self._metrics.load_failures.labels(folder.name).count_exceptions():
                await self._load_wanted(folder, config)
        finally:
            self._note(folder.name)

    def _lacking(self, name: str, why: str) -> None:
        """Know of a model that was asked for and is not here."""
        self._models.setdefault(name, _Model()).reason = why
        self._note(name)

    def _note(self, name: str) -> None:
        """Show whether a model is one that has failed."""
        self._metrics.failed.labels(name).value = int(name in self.failed)

    async def _load_wanted(self, folder: Path, config: str) -> None:
        """Load the wanted versions; once all of them are served, retire the others.

        Raises:
            LoadFailed: not all of them are.
            StartError: CUDA is required and not to be had.
        """
        model = self._models.setdefault(folder.name, _Model())
        async with model.lock:
            model.reason = ""
            try:
                model.seen = await asyncio.to_thread(mark_of, folder)
                file = await asyncio.to_thread(self._config_file, folder, config)
                wanted = await asyncio.to_thread(_wanted, folder, file)
            except NyquistError as error:
                model.reason = self._public(error)
                raise self._failed(folder.name, model.reason) from error
            failures = [
                f"version {number}: {reason}"
                for number in wanted
                if (reason := await self._load_version(folder, number, file))
            ]
            if failures:
                raise self._failed(folder.name, "; ".join(failures))
            for number in model.versions.keys() - set(wanted):
                await self._retire_version(folder.name, number)

    async def _load_version(self, folder: Path, number: int, file: ConfigFile) -> str:
        """Swap in a version if its files have changed; return why not, where it fails."""
        version = self._models[folder.name].versions.setdefault(number, _Version())
        try:
            mark = await asyncio.to_thread(_mark, folder, number, file)
            old = version.serving
            if old and old.mark == mark and old.model.ready:
                return ""
            version.busy = "LOADING"
            self._changed.set()
            loaded = await asyncio.to_thread(self._loader, folder, number, file)
            version.serving = Serving(self._serve(loaded), loaded.config, mark)
            version.reason = ""
        except StartError:
            raise
        except NyquistError as error:
            version.reason = self._public(error)
            return version.reason
        except Exception:
            logger.exception("unexpected error in loading %s", folder.name)
            version.reason = "internal error; see the log"
            return version.reason
        finally:
            version.busy = ""
            self._changed.set()
        if old:
            await old.retire()
            self._metrics.ready.labels(folder.name, str(number)).set(1)  # the old one cleared it
            del loaded, old
            await asyncio.to_thread(_collect_and_give_back)
        return ""

    def _config_file(self, folder: Path, config: str) -> ConfigFile:
        if config:
            return overriding_config(config, self._link_folders)
        return read_config_file(folder, self._link_folders)

    async def _take_down(self, name: str) -> None:
        model = self._models[name]
        async with model.lock:
            model.reason = ""
            for number in list(model.versions):
                await self._retire_version(name, number)
        self._note(name)

    async def _retire_version(self, name: str, number: int) -> None:
        version = self._models[name].versions[number]
        serving, version.serving, version.reason = version.serving, None, UNLOADED
        if serving is None:
            return
        version.busy = "UNLOADING"
        self._changed.set()
        await serving.retire()
        version.busy = ""
        self._metrics.forget(name, str(number))
        logger.info("unloaded %s version %d", name, number)
        del serving
        await asyncio.to_thread(_collect_and_give_back)

    def _failed(self, name: str, reason: str) -> LoadFailed:
        served = [str(one.model.described.version) for one in self.served(name)]
        if served:
            return LoadFailed(
                f"failed to load '{name}': {reason}; version {', '.join(served)} is served on"
            )
        return LoadFailed(f"failed to load '{name}', no version is available: {reason}")

    def _public(self, error: NyquistError) -> str:
        """Return the text of an error without the server's paths and addresses."""
        logger.debug("load failed", exc_info=error)
        line = (str(error).splitlines() or [""])[0]
        for repository in self._repositories:
            line = line.replace(f"{repository}/", "")
        return _ADDRESS.sub("(address)", _ABSOLUTE_FOLDERS.sub("", line))


def _not_there(name: str) -> LoadFailed:
    return LoadFailed(f"failed to load '{name}', failed to poll from model repository")


def _collect_and_give_back() -> None:
    """Collect what has no owner any more, and return its memory to the system."""
    gc.collect()
    give_memory_back()


def _wanted(folder: Path, file: ConfigFile) -> list[int]:
    """Return the versions that a model's policy wants, and tell of what is none for its name."""
    wanted = file.wanted(folder)
    for name in passed_over(folder, file.model_file):
        line = "%s/%s is no version: those are called 1, 2, 3, ..., without zeros before"
        logger.warning(line, folder.name, name)
    return wanted


def _mark(folder: Path, number: int, file: ConfigFile) -> Mark:
    """Return the mark of a version, with that of the configuration that a load brought for it."""
    return (*mark_of(folder, number), *([(file.sha256, 0, 0, 0)] if file.path == OVERRIDE else []))


def _entries(name: str, model: _Model) -> list[IndexEntry]:
    if not model.versions:
        return [IndexEntry(name, state="UNAVAILABLE", reason=model.reason)]
    return [
        IndexEntry(name, str(number), version.state, version.why)
        for number, version in sorted(model.versions.items())
    ]
