"""Models that come, change and go while others are served; through the registry itself."""

import asyncio
import shutil
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from nyquist.server.artifact.layout import ConfigFile
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.serving.loading import LoadedModel, load_model
from nyquist.server.serving.registry import Fetch, Registry, nothing_to_fetch
from nyquist.server.serving.served_model import ServedModel
from nyquist.server.sources.fetching import Fetched
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import (
    ArtifactError,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    NyquistError,
    Stopping,
)
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pictures import ImageDecoder
from nyquist.server.wire.request_head import Incoming
from tests.artifacts import add_version, copy_model, damage, edit_manifest, set_config, touch

NAME = "fashion_strided"
OTHER = "fashion_blur"
ON_CPU = Execution(provider="cpu", threads=1)
BUDGET = QueueBudget(1 << 24)
ALL = "version_policy { all {} }"


def make_registry(
    *repositories: Path,
    loads: list[tuple[str, int]] | None = None,
    metrics: Metrics | None = None,
    fetch: Fetch = nothing_to_fetch,
    strict: bool = True,
) -> Registry:
    """A registry as the server makes it; it notes what it loads."""
    metrics, images = metrics or Metrics(), ImageDecoder()

    def load(folder: Path, version: int, config: ConfigFile) -> LoadedModel:
        if loads is not None:
            loads.append((folder.name, version))
        return load_model(folder, ON_CPU, version, config)

    def serve(loaded: LoadedModel) -> ServedModel:
        series = metrics.model(loaded.described.name, str(loaded.described.version))
        return ServedModel(loaded, series, images, BUDGET)

    return Registry(repositories, load, serve, metrics, fetch=fetch, strict=strict)


def during(
    repository: Path,
    script: Callable[[Registry], Awaitable[None]],
    loads: list[tuple[str, int]] | None = None,
    metrics: Metrics | None = None,
    *,
    strict: bool = True,
) -> None:
    """Run a script against a registry that has loaded everything, and close it."""

    async def run() -> None:
        registry = make_registry(repository, loads=loads, metrics=metrics, strict=strict)
        await registry.load_all()
        try:
            async with asyncio.timeout(60):  # or a state that never comes would hang the test
                await script(registry)
        finally:
            await registry.close()

    asyncio.run(run())


def versions(registry: Registry, name: str = NAME) -> list[int]:
    return [serving.model.described.version for serving in registry.served(name)]


async def states(registry: Registry) -> dict[tuple[str, str], str]:
    return {(entry.name, entry.version): entry.state for entry in await registry.index()}


def a_request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=NAME, raw_input_contents=[bytes(4 * 48 * 48)])
    request.inputs.add(name="image", datatype="FP32", shape=(1, 1, 48, 48))
    return request


async def answer(registry: Registry, version: int | None = None) -> pb.ModelInferResponse:
    with registry.find(NAME, version) as model:
        return pb.ModelInferResponse.FromString(
            await model.infer(Incoming(a_request().SerializeToString()), 0.0, None)
        )


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    """The folder of one model, in a repository of its own."""
    return copy_model(repository, tmp_path, NAME)


def test_the_configuration_is_read_once_for_all_versions(folder: Path) -> None:
    add_version(folder, 2)
    set_config(folder, ALL)
    metrics, files = Metrics(), list[ConfigFile]()

    def load(path: Path, version: int, config: ConfigFile) -> LoadedModel:
        files.append(config)
        return load_model(path, ON_CPU, version, config)

    def serve(loaded: LoadedModel) -> ServedModel:
        series = metrics.model(loaded.described.name, str(loaded.described.version))
        return ServedModel(loaded, series, ImageDecoder(), BUDGET)

    async def script() -> None:
        registry = Registry([folder.parent], load, serve, metrics)
        await registry.load_all()
        assert [one.model.described.version for one in registry.served(NAME)] == [1, 2]
        await registry.close()

    asyncio.run(script())
    first, second = files
    assert first is second


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [3]),
        ("version_policy { latest { num_versions: 1 } }", [3]),
        ("version_policy { latest { num_versions: 2 } }", [2, 3]),
        ("version_policy { latest { num_versions: 9 } }", [1, 2, 3]),
        (ALL, [1, 2, 3]),
        ("version_policy { specific { versions: [1, 3] } }", [1, 3]),
    ],
)
def test_the_version_policy_says_which_versions_are_served(
    folder: Path, policy: str, served: list[int]
) -> None:
    add_version(folder, 2)
    add_version(folder, 3)
    set_config(folder, policy)

    async def script(registry: Registry) -> None:
        assert versions(registry) == served
        assert (await answer(registry)).model_version == str(served[-1])
        assert (await answer(registry, served[0])).model_version == str(served[0])

    during(folder.parent, script)


def test_a_specific_version_that_is_not_there_is_named_and_withholds_no_other(folder: Path) -> None:
    set_config(folder, "version_policy { specific { versions: [1, 7] } }")

    async def script(registry: Registry) -> None:
        assert versions(registry) == [1]
        assert await answer(registry, 1)
        served, missing = await registry.index()
        assert (served.state, missing.version, missing.state) == ("READY", "7", "UNAVAILABLE")
        assert "no complete version 7" in missing.reason

    during(folder.parent, script)


def test_of_specific_versions_one_has_to_be_there(folder: Path) -> None:
    set_config(folder, "version_policy { specific { versions: [6, 7] } }")

    async def script(registry: Registry) -> None:
        with pytest.raises(ModelNotFound, match="has no available versions"):
            registry.find(NAME, None)
        (entry,) = await registry.index()
        assert entry.state == "UNAVAILABLE"
        assert "no complete version [6, 7]" in entry.reason

    during(folder.parent, script)


def test_loading_what_has_not_changed_loads_nothing(folder: Path) -> None:
    loads: list[tuple[str, int]] = []

    async def script(registry: Registry) -> None:
        before = registry.find(NAME, None)
        await registry.load(NAME)
        await registry.poll()
        assert registry.find(NAME, None) is before

    during(folder.parent, script, loads)
    assert loads == [(NAME, 1)]


def test_a_changed_configuration_is_served_after_a_load(folder: Path) -> None:
    async def script(registry: Registry) -> None:
        before = registry.find(NAME, None)
        path = folder / "config.pbtxt"
        path.write_text(path.read_text().replace("max_batch_size: 64", "max_batch_size: 7"))
        await registry.load(NAME)
        after = registry.find(NAME, None)
        assert after is not before
        assert after.config.max_batch_size == 7
        with pytest.raises(Stopping):
            await before.model.infer(Incoming(a_request().SerializeToString()), 0.0, None)
        await answer(registry)

    during(folder.parent, script)


def test_a_new_version_takes_over_and_the_old_one_is_unloaded(folder: Path) -> None:
    async def script(registry: Registry) -> None:
        add_version(folder, 2)
        await registry.load(NAME)
        assert versions(registry) == [2]
        with pytest.raises(ModelNotReady, match="version 1 is not at ready state"):
            registry.find(NAME, 1)
        assert (await states(registry))[NAME, "1"] == "UNAVAILABLE"

    during(folder.parent, script)


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "labels.txt"])
def test_a_new_version_that_is_damaged_leaves_the_old_one_served(folder: Path, file: str) -> None:
    async def script(registry: Registry) -> None:
        path = add_version(folder, 2) / file
        sound = path.read_bytes()
        path.write_bytes(sound[: len(sound) // 2])
        with pytest.raises(LoadFailed, match="version 1 is served on"):
            await registry.load(NAME)
        assert versions(registry) == [1]
        assert (await answer(registry)).model_version == "1"
        path.write_bytes(sound)
        await registry.load(NAME)
        assert versions(registry) == [2]

    during(folder.parent, script)


def test_a_version_without_its_manifest_is_never_loaded(folder: Path) -> None:
    loads: list[tuple[str, int]] = []

    async def script(registry: Registry) -> None:
        manifest = add_version(folder, 2) / "manifest.json"
        text = manifest.read_text()
        manifest.unlink()
        await registry.load(NAME)
        await registry.poll()
        assert versions(registry) == [1]
        manifest.write_text(text)
        await registry.poll()
        assert versions(registry) == [2]

    during(folder.parent, script, loads)
    assert loads == [(NAME, 1), (NAME, 2)]


def test_one_bad_model_stops_neither_the_start_nor_a_poll(repository: Path, folder: Path) -> None:
    other = copy_model(repository, folder.parent, OTHER)
    sound = damage(folder / "1" / "model.onnx")

    async def script(registry: Registry) -> None:
        assert registry.names == [OTHER]
        assert not registry.ready
        add_version(other, 2)
        await registry.poll()
        assert versions(registry, OTHER) == [2]
        (folder / "1" / "model.onnx").write_bytes(sound)
        await registry.poll()
        assert registry.names == [OTHER, NAME]

    during(folder.parent, script)


def test_a_bad_model_is_tried_again_only_when_its_files_change(folder: Path) -> None:
    loads: list[tuple[str, int]] = []
    damage(folder / "1" / "model.onnx")

    async def script(registry: Registry) -> None:
        await registry.poll()
        await registry.poll()
        assert loads == [(NAME, 1)]
        touch(folder / "1" / "model.onnx")
        await registry.poll()
        assert loads == [(NAME, 1)] * 2

    during(folder.parent, script, loads)


def test_a_configuration_that_is_none_is_told_once_and_leaves_the_model_served(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(registry: Registry) -> None:
        set_config(folder, "no configuration")
        await registry.poll()
        await registry.poll()
        assert await answer(registry)

    during(folder.parent, script)
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "config.pbtxt" in told.getMessage()
    assert "version 1 is served on" in told.getMessage()


def test_polling_outlives_a_repository_that_is_away(folder: Path) -> None:
    async def script(registry: Registry) -> None:
        polling = asyncio.create_task(registry.keep_polling(0.001))
        away = folder.parent.rename(folder.parent.with_name("away"))
        for _ in range(5):
            await registry.poll()
        assert await answer(registry)
        away.rename(folder.parent)
        add_version(folder, 2)
        while versions(registry) != [2]:
            await registry.wait_for_change(1)
        polling.cancel()

    during(folder.parent, script)


def test_polling_unloads_nothing_where_a_lost_mount_leaves_an_empty_folder(folder: Path) -> None:
    async def script(registry: Registry) -> None:
        away = folder.parent.rename(folder.parent.with_name("away"))
        folder.parent.mkdir()
        await registry.poll()
        assert await answer(registry)
        folder.parent.rmdir()
        away.rename(folder.parent)

    during(folder.parent, script)


def failed(metrics: Metrics, name: str = NAME) -> float | None:
    return metrics.registry.get_sample_value("nyquist_model_failed", {"model": name})


def test_nothing_is_ready_while_a_model_that_was_asked_for_is_broken(
    repository: Path, folder: Path
) -> None:
    copy_model(repository, folder.parent, OTHER)
    sound = damage(folder / "1" / "model.onnx")
    metrics = Metrics()

    async def script(registry: Registry) -> None:
        assert not registry.ready
        assert registry.failed == [NAME]
        assert (failed(metrics), failed(metrics, OTHER)) == (1, 0)
        await registry.unload(NAME)  # so nobody asks for it any more
        assert registry.ready
        assert failed(metrics) == 0
        with pytest.raises(LoadFailed):
            await registry.load(NAME)
        assert not registry.ready
        (folder / "1" / "model.onnx").write_bytes(sound)
        await registry.load(NAME)
        assert registry.ready
        assert failed(metrics) == 0
        damage(folder / "1" / "model.onnx")
        with pytest.raises(LoadFailed):
            await registry.load(NAME)
        assert registry.ready  # the old one answers on
        (folder / "1" / "model.onnx").write_bytes(sound)

    during(folder.parent, script, metrics=metrics)


def test_a_model_that_a_start_names_and_that_is_not_there_is_one_that_failed(folder: Path) -> None:
    async def run() -> None:
        registry = make_registry(folder.parent)
        try:
            await registry.load_all([NAME, "nobody"])
            assert registry.failed == ["nobody"]
            assert not registry.ready
        finally:
            await registry.close()

    asyncio.run(run())


def test_what_is_no_version_for_its_name_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("010", "v2"):
        shutil.copytree(folder / "1", folder / name)
    (folder / "notes").mkdir()
    during(folder.parent, lambda _: asyncio.sleep(0))
    told = [line for line in caplog.messages if "is no version" in line]
    assert [line.split()[0] for line in told] == [f"{NAME}/010", f"{NAME}/v2"]


def test_nothing_is_ready_where_one_model_is_broken_and_the_other_unloaded(
    repository: Path, folder: Path
) -> None:
    copy_model(repository, folder.parent, OTHER)
    sound = damage(folder / "1" / "model.onnx")

    async def script(registry: Registry) -> None:
        assert registry.ready
        await registry.unload(OTHER)
        assert not registry.ready
        (folder / "1" / "model.onnx").write_bytes(sound)
        await registry.load(NAME)
        assert registry.ready
        await registry.unload(NAME)
        assert registry.ready  # as asked for

    during(folder.parent, script, strict=False)


def test_polling_finds_new_models_and_unloads_those_that_are_gone(
    repository: Path, folder: Path
) -> None:
    async def script(registry: Registry) -> None:
        other = copy_model(repository, folder.parent, OTHER)
        await registry.poll()
        assert registry.names == [OTHER, NAME]
        other.rename(folder.parent / ".gone")
        await registry.poll()
        assert registry.names == [NAME]
        with pytest.raises(ModelNotFound, match=f"'{OTHER}' is not found"):
            registry.find(OTHER, None)

    during(folder.parent, script)


def test_unloading_waits_for_the_requests_in_flight(folder: Path) -> None:
    async def script(registry: Registry) -> None:
        with registry.find(NAME, None) as model:
            unloading = asyncio.create_task(registry.unload(NAME))
            while (await states(registry))[NAME, "1"] != "UNLOADING":
                await registry.wait_for_change(1)
            with pytest.raises(ModelNotFound, match="has no available versions"):
                registry.find(NAME, None)
            assert not unloading.done()
            assert await model.infer(Incoming(a_request().SerializeToString()), 0.0, None)
        await unloading
        assert (await states(registry))[NAME, "1"] == "UNAVAILABLE"
        await registry.load(NAME)
        await answer(registry)

    during(folder.parent, script)


def test_a_caller_who_leaves_does_not_stop_a_load(folder: Path) -> None:
    async def script(registry: Registry) -> None:
        add_version(folder, 2)
        loading = asyncio.create_task(registry.load(NAME))
        while (await states(registry)).get((NAME, "2")) != "LOADING":
            await registry.wait_for_change(1)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        while versions(registry) != [2]:
            await registry.wait_for_change(1)

    during(folder.parent, script)


def test_loads_of_one_model_at_the_same_time_load_it_once(folder: Path) -> None:
    loads: list[tuple[str, int]] = []

    async def script(registry: Registry) -> None:
        add_version(folder, 2)
        await asyncio.gather(*(registry.load(NAME) for _ in range(5)))

    during(folder.parent, script, loads)
    assert loads == [(NAME, 1), (NAME, 2)]


def test_the_index_lists_what_was_never_loaded_too(repository: Path, folder: Path) -> None:
    async def script(registry: Registry) -> None:
        copy_model(repository, folder.parent, OTHER)
        assert await states(registry) == {(OTHER, ""): "", (NAME, "1"): "READY"}
        ready = await registry.index(ready_only=True)
        assert [(entry.name, entry.version) for entry in ready] == [(NAME, "1")]

    during(folder.parent, script)


def test_an_index_of_a_repository_that_is_gone_names_no_path(folder: Path) -> None:
    async def script(registry: Registry) -> None:
        folder.parent.rename(folder.parent.with_name("elsewhere"))
        with pytest.raises(NyquistError) as failure:
            await registry.index()
        assert type(failure.value) is NyquistError, "of a class whose texts reach callers"
        assert str(folder.parent.parent) not in str(failure.value)
        assert "there is no model repository" in str(failure.value)

    during(folder.parent, script)


def test_a_failed_load_tells_the_reason_without_a_path(folder: Path) -> None:
    def wrong(content: dict[str, object]) -> None:
        content["name"] = "impostor"

    edit_manifest(folder, wrong)

    async def script(registry: Registry) -> None:
        with pytest.raises(LoadFailed) as failure:
            await registry.load(NAME)
        told = [str(failure.value), *(entry.reason for entry in await registry.index())]
        for text in told:
            assert "'impostor'" in text
            assert str(folder.parent) not in text
            assert f"{NAME}/1/manifest.json" in text

    during(folder.parent, script)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "...", " ..", ".. ", "/", "../x", "fashion_strided/", "fashion_strided/1",
        "./fashion_strided", "fashion_strided\0", "FASHION_STRIDED", " fashion_strided",
        "..my_model", "model..1", "ﬀashion_strided", ".fashion_strided.2",
    ],
)  # fmt: skip
def test_a_name_that_is_no_folder_of_the_repository_is_never_looked_for(
    folder: Path, name: str
) -> None:
    loads: list[tuple[str, int]] = []

    async def script(registry: Registry) -> None:
        with pytest.raises(LoadFailed, match="failed to poll from model repository"):
            await registry.load(name)
        with pytest.raises(ModelNotFound, match="is not found"):
            await registry.unload(name)
        with pytest.raises(ModelNotFound, match="is not found"):
            registry.find(name, None)

    during(folder.parent, script, loads)
    assert loads == [(NAME, 1)]


class Mortal(ServedModel):
    """A model whose worker can be declared dead."""

    dead = False

    @property
    def ready(self) -> bool:
        return not self.dead and super().ready


def test_a_model_whose_worker_died_is_not_ready_until_it_is_loaded_again(
    repository: Path, folder: Path
) -> None:
    copy_model(repository, folder.parent, OTHER)
    metrics, images = Metrics(), ImageDecoder()

    def serve(loaded: LoadedModel) -> ServedModel:
        return Mortal(loaded, metrics.model(loaded.described.name, "1"), images, BUDGET)

    async def script() -> None:
        registry = Registry(
            [folder.parent],
            lambda path, version, config: load_model(path, ON_CPU, version, config),
            serve,
            metrics,
        )
        await registry.load_all()
        assert registry.ready
        model = registry.find(NAME, None).model
        assert isinstance(model, Mortal)
        model.dead = True
        assert not registry.ready
        assert registry.readiness() == {NAME: False, OTHER: True}
        entry = next(entry for entry in await registry.index() if entry.name == NAME)
        assert entry.state == "UNAVAILABLE"
        assert entry.reason.startswith("the model's worker has died")
        await registry.load(NAME)
        assert registry.ready
        await answer(registry)
        await registry.close()

    asyncio.run(script())


def test_an_unloaded_model_leaves_nothing_in_memory(folder: Path) -> None:
    async def script(registry: Registry) -> None:
        await answer(registry)
        left = weakref.ref(registry.find(NAME, None).model)
        await registry.unload(NAME)
        assert left() is None

    during(folder.parent, script)


def test_the_series_of_an_unloaded_model_end_and_a_reloaded_one_is_ready(folder: Path) -> None:
    metrics, images = Metrics(), ImageDecoder()

    def serve(loaded: LoadedModel) -> ServedModel:
        return ServedModel(loaded, metrics.model(loaded.described.name, "1"), images, BUDGET)

    def ready() -> float | None:
        labels = {"model": NAME, "version": "1"}
        return metrics.registry.get_sample_value("nyquist_model_ready", labels)

    async def script() -> None:
        registry = Registry(
            [folder.parent],
            lambda path, version, config: load_model(path, ON_CPU, version, config),
            serve,
            metrics,
        )
        await registry.load_all()
        touch(folder / "config.pbtxt")
        await registry.load(NAME)
        assert ready() == 1
        await registry.unload(NAME)
        assert ready() is None
        await registry.close()

    asyncio.run(script())


def test_loads_that_fail_are_counted_for_as_long_as_the_model_is_known(folder: Path) -> None:
    metrics = Metrics()

    def failures() -> float | None:
        name = "nyquist_model_load_failures_total"
        return metrics.registry.get_sample_value(name, {"model": NAME})

    async def script() -> None:
        registry = make_registry(folder.parent, metrics=metrics)
        await registry.load_all()
        assert failures() == 0
        damage(add_version(folder, 2) / "model.onnx")
        for expected in (1, 2):
            with pytest.raises(LoadFailed):
                await registry.load(NAME)
            assert failures() == expected
        await registry.unload(NAME)
        assert failures() == 2
        with pytest.raises(LoadFailed):
            await registry.load("unheard_of")
        shutil.rmtree(folder)
        await registry.poll()
        assert failures() is None
        await registry.close()

    asyncio.run(script())


def test_the_models_of_several_repositories_are_served_side_by_side(
    repository: Path, tmp_path: Path
) -> None:
    for place, name in (("one", NAME), ("two", OTHER)):
        copy_model(repository, tmp_path / place, name)

    async def script() -> None:
        registry = make_registry(tmp_path / "one", tmp_path / "two")
        assert await registry.load_all() == 2
        assert registry.names == [OTHER, NAME]
        await registry.close()

    asyncio.run(script())


def test_a_name_in_two_repositories_is_refused_and_what_is_served_is_served_on(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ("one", "two"):
        copy_model(repository, tmp_path / place)

    async def script() -> None:
        registry = make_registry(tmp_path / "one", tmp_path / "two")
        with pytest.raises(ArtifactError, match=f"{NAME}' lies in two repositories, .*one and"):
            await registry.load_all()
        shutil.move(tmp_path / "two" / NAME, tmp_path)
        await registry.load_all()
        shutil.move(tmp_path / NAME, tmp_path / "two")
        with pytest.raises(LoadFailed, match=r"lies in two .*; version 1 is served on") as failed:
            await registry.load(NAME)
        assert str(tmp_path) not in str(failed.value)
        await registry.poll()
        assert "lies in two repositories" in caplog.text
        await answer(registry)
        await registry.close()

    asyncio.run(script())


def test_only_the_models_that_are_named_are_loaded_and_the_others_can_be(
    folder: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy_model(repository, folder.parent, OTHER)

    async def script() -> None:
        registry = make_registry(folder.parent)
        assert await registry.load_all([OTHER, "nowhere"]) == 2
        assert registry.names == [OTHER]
        assert "model nowhere is not served: failed to load 'nowhere'" in caplog.text
        await registry.load(NAME)
        assert registry.names == [OTHER, NAME]
        await registry.close()

    asyncio.run(script())


class Source:
    """A place that models are fetched from; it notes what it is asked for."""

    def __init__(self) -> None:
        self.answer = Fetched()
        self.asked: list[Sequence[str] | None] = []

    async def __call__(self, names: Sequence[str] | None) -> Fetched:
        self.asked.append(names)
        return self.answer


AWAY = Fetched({NAME: "its source cannot be read"}, "its source cannot be read")


def test_a_load_fetches_its_model_and_fails_where_that_fails_and_an_older_one_is_served(
    one_model: Path,
) -> None:
    source = Source()
    registry = make_registry(one_model, fetch=source)

    async def script() -> None:
        await registry.load(NAME)
        source.answer = AWAY
        with pytest.raises(LoadFailed, match="its source cannot be read; version 1 is served on"):
            await registry.load(NAME)
        await registry.unload(NAME)
        await registry.load(NAME)  # from what was fetched before
        with pytest.raises(LoadFailed, match="no version is available: its source cannot be read"):
            await registry.load("other")
        await registry.close()

    asyncio.run(script())
    assert source.asked == [[NAME], [NAME], [NAME], ["other"]]


def test_a_model_that_could_not_be_fetched_is_asked_for_and_lacking_until_it_comes(
    one_model: Path,
) -> None:
    source = Source()
    source.answer = Fetched({"half": "half/1/model.onnx came with 3 bytes, it has 9"})
    registry = make_registry(one_model, fetch=source)

    async def script() -> None:
        await registry.load_all(fetched=source.answer)
        assert not registry.ready
        assert registry.failed == ["half"]
        await registry.poll()
        (half,) = [entry for entry in await registry.index() if entry.name == "half"]
        assert (half.state, half.reason) == ("UNAVAILABLE", source.answer.failures["half"])
        source.answer = Fetched()
        await registry.poll()
        assert registry.ready
        await registry.close()

    asyncio.run(script())
