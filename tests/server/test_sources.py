"""Models that are fetched from elsewhere, from a real S3 server and through what can go wrong."""

import asyncio
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import pytest
from prometheus_client import CollectorRegistry

from nyquist.server.sources.address import parse_repository, without_secrets
from nyquist.server.sources.cache import Cache
from nyquist.server.sources.fetching import Fetched, Sources, repository_of
from nyquist.server.sources.store import RemoteFile
from nyquist.server.sources.watch import Watch
from nyquist.server.wire.errors import StartError, Stopping
from tests.server.stores import (
    BUCKET,
    ENVIRONMENT,
    EXPIRED,
    SECRET,
    Answer,
    Faulty,
    Pages,
    artifact,
    faulty,
    of_a_registry,
    of_the_hub,
    of_the_web,
    pages,
    put,
    s3_server,
    sound,
    tar,
)

STALL_S = 0.5


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[str, int]]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def bucket(upstream: tuple[str, int]) -> Any:
    """The bucket's files, past every fault."""
    files = fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        use_listings_cache=False,
        key="testing",
        secret="testing",  # noqa: S106 - moto takes any
        endpoint_url="http://{}:{}".format(*upstream),
    )
    files.mkdir(BUCKET)
    return files


@pytest.fixture
def proxy(
    upstream: tuple[str, int], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Faulty]:
    """Where the libraries find S3."""
    del bucket
    with faulty(upstream) as running:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": running.url}.items():
            monkeypatch.setenv(name, value)
        yield running


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the files of the models in a repository."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for model in folder.iterdir()
        for path in model.rglob("*")
        if path.is_file()
    }


class Place:
    """A prefix of the bucket, and what a server would have of it."""

    def __init__(self, bucket: Any, name: str, cache: Path) -> None:
        self.bucket, self.prefix, self.cache = bucket, f"{BUCKET}/{name}", cache
        self.address = parse_repository(f"s3://{self.prefix}")
        self.registry = CollectorRegistry()
        assert not isinstance(self.address, Path)
        self.folder = repository_of(self.address, cache)
        self._sources = self.sources()

    def sources(self) -> Sources:
        """As a process that has just started makes them."""
        assert not isinstance(self.address, Path)
        self.registry = CollectorRegistry()
        return Sources([self.address], self.cache, STALL_S, self.registry)

    def put(self, files: dict[str, bytes]) -> None:
        put(self.bucket, self.prefix, files)

    def remove(self, path: str) -> None:
        self.bucket.rm(f"{self.prefix}/{path}", recursive=True)

    def start(self, names: Sequence[str] | None = None) -> Fetched:
        self._sources = self.sources()
        return asyncio.run(self._sources.start(names))

    def fetch(self, names: Sequence[str] | None = None) -> Fetched:
        return asyncio.run(self._sources.fetch(names))

    def here(self) -> dict[str, bytes]:
        """Return every file that is served."""
        return files_below(self.folder)

    def value(self, name: str) -> float:
        return self.registry.get_sample_value(name, {"source": str(self.address)}) or 0


@pytest.fixture
def place(bucket: Any, proxy: Faulty, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    del proxy
    return Place(bucket, request.node.name, tmp_path / "cache")


def test_models_come_whole_and_only_what_has_changed_comes_again(
    place: Place, proxy: Faulty
) -> None:
    first, second = artifact("a"), artifact("b", graph=b"other")
    place.put(first | second)
    assert place.start() == Fetched()
    assert place.here() == first | second
    before = len(proxy.fetched())
    assert place.fetch() == Fetched()
    assert len(proxy.fetched()) == before
    fresh = artifact("a", 2, b"better")
    place.put(fresh)
    place.fetch()
    assert place.here() == fresh | second
    came = {path.split("/", 1)[1] for path in proxy.fetched()[before:]}
    assert came == {"a/2/manifest.json", "a/2/model.onnx"}  # the labels are those of version 1


def test_a_version_is_not_seen_before_its_manifest_which_is_uploaded_last(place: Place) -> None:
    old, new = artifact("a"), artifact("a", 2, b"better")
    manifest = {path: new.pop(path) for path in list(new) if path.endswith("manifest.json")}
    place.put(old)
    place.start()
    for path, content in new.items():
        place.put({path: content})
        assert place.fetch() == Fetched()
        assert place.here() == old
    place.put(manifest)
    place.fetch()
    assert place.here() == new | manifest


def wrong_byte(method: str, path: str, answer: Answer) -> Answer:
    if method == "GET" and path.endswith("model.onnx"):
        return answer[0], answer[1][:-1] + b"?"
    return answer


def test_wrong_bytes_are_found_by_their_checksum_and_the_last_copy_kept(
    place: Place, proxy: Faulty
) -> None:
    old, new, other = artifact("a"), artifact("a", 2, b"better"), artifact("b")
    place.put(old)
    place.start()
    place.put(new | other)
    proxy.fault = wrong_byte
    assert "checksum" in place.fetch().failures["a"]  # of S3's own, which its client compares
    assert place.here() == old | other  # whose graph is that of a, and here
    proxy.fault = sound
    assert place.fetch() == Fetched()
    assert place.here() == new | other


class FirstOnly:
    """A fault of the first answers for each object and listing."""

    def __init__(self, made: Answer) -> None:
        self.made, self.met = made, set[str]()

    def __call__(self, method: str, path: str, answer: Answer) -> Answer:
        if path in self.met or method != "GET":
            return answer
        self.met.add(path)
        return self.made[0], self.made[1] or answer[1][:-2]


@pytest.mark.parametrize(
    "made",
    [(503, b"<Error><Code>SlowDown</Code></Error>"), (200, b"")],
    ids=["slow down", "cut body"],
)
def test_what_fails_once_is_asked_for_again(
    place: Place, proxy: Faulty, made: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nyquist.server.sources.fetching.TRIES", 8)  # each object fails by itself
    monkeypatch.setattr("nyquist.server.sources.fetching.FIRST_PAUSE_S", 0.0)
    place.put(artifact("a"))
    proxy.fault = FirstOnly(made)
    assert place.start() == Fetched()
    assert place.here() == artifact("a")


def expired(method: str, path: str, answer: Answer) -> Answer:
    del method, path, answer
    return 403, EXPIRED


def test_a_source_that_cannot_be_read_is_told_once_and_counted_each_time(
    place: Place, proxy: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    place.put(artifact("a"))
    with caplog.at_level(logging.DEBUG):
        place.start()
        succeeded = place.value("nyquist_source_last_success_timestamp_seconds")
        proxy.fault = expired
        for _ in range(3):
            assert place.fetch().failures.keys() == {"a"}
        proxy.fault = sound
        assert place.fetch() == Fetched()
    told = [one.getMessage() for one in caplog.records if one.name.startswith("nyquist")]
    assert SECRET not in caplog.text
    assert ENVIRONMENT["AWS_ACCESS_KEY_ID"] not in caplog.text
    assert told[1:] == [
        f"{place.address}: it cannot be read: The provided token has expired.; "
        "what was fetched before is kept",
        f"{place.address} can be read again",
    ]
    assert place.value("nyquist_source_failures_total") == 3
    assert place.value("nyquist_source_last_success_timestamp_seconds") > succeeded > 0
    assert place.here() == artifact("a")


def test_a_restart_without_the_source_serves_what_was_fetched(
    place: Place, proxy: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nyquist.server.sources.fetching.FIRST_PAUSE_S", 0.0)
    place.put(artifact("a"))
    place.start()
    proxy.server_close()
    assert place.start().failures.keys() == {"a"}
    assert place.here() == artifact("a")


def test_a_bucket_that_is_lost_or_emptied_leaves_what_was_fetched(place: Place) -> None:
    place.put(artifact("a"))
    place.start()
    place.remove("")
    assert place.fetch().failures.keys() == {"a"}
    assert place.start(["a"]).failures.keys() == {"a"}
    assert place.here() == artifact("a")


def test_a_source_that_was_never_read_ends_the_start_with_a_line(
    bucket: Any, proxy: Faulty, tmp_path: Path
) -> None:
    del proxy
    place = Place(bucket, "x", tmp_path / "cache")
    place.address = parse_repository("s3://other/x")
    with pytest.raises(StartError, match="s3://other/x: it cannot be read: The specified bucket"):
        place.start()


def test_a_source_that_says_nothing_is_given_up_and_a_stop_ends_a_look_at_once(
    place: Place, proxy: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nyquist.server.sources.fetching.TRIES", 1)
    place.put(artifact("a"))

    def stalled(method: str, path: str, answer: Answer) -> Answer:
        proxy.never.wait(60)
        return sound(method, path, answer)

    proxy.fault = stalled
    with pytest.raises(StartError, match="it cannot be read: Read timeout"):
        place.start()

    monkeypatch.setattr("nyquist.server.sources.fetching.TRIES", 1000)

    async def stop() -> None:
        sources = place.sources()
        look = asyncio.create_task(sources.start(None))
        await asyncio.to_thread(proxy.wait_for, len(proxy.asked) + 2)
        sources.close()
        with pytest.raises(Stopping):
            await look

    asyncio.run(stop())


class Shelf:
    """A store whose names no bucket would let through, in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.exchanged = files, dict[str, bytes]()
        self.fetched = 0

    def listing(self) -> dict[str, RemoteFile]:
        return {
            path: RemoteFile(len(content), sha256(content).hexdigest())
            for path, content in self.files.items()
        }

    def fetch(self, path: str, target: Path) -> None:
        self.fetched += 1
        target.write_bytes(self.files[path])
        self.files |= self.exchanged


class Kept:
    """What a server would have of a shelf."""

    def __init__(self, folder: Path, files: dict[str, bytes] | None = None) -> None:
        self.shelf, self.folder = Shelf(files or {}), folder

    def update(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """Bring it to what the shelf has, as a process that has just started does."""
        cache = Cache(self.folder, Watch("a shelf", str))
        return {name: str(why) for name, why in cache.update(self.shelf, names).items()}

    def here(self) -> dict[str, bytes]:
        return files_below(self.folder / "repository")


def test_the_first_upload_of_a_model_is_no_failure_while_it_goes_on(tmp_path: Path) -> None:
    begun = artifact("a")
    del begun["a/1/manifest.json"]
    kept = Kept(tmp_path, artifact("b") | begun)
    assert kept.update() == {}
    assert kept.here() == artifact("b")


def test_a_manifest_whose_graph_is_not_there_is_told_and_the_last_copy_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path, artifact("a"))
    kept.update()
    kept.shelf.files |= artifact("a", 2, b"better")
    del kept.shelf.files["a/2/model.onnx"]
    assert kept.update() == {"a": "2/model.onnx is not there, 2/manifest.json names it"}
    assert kept.here() == artifact("a")


def test_models_that_are_named_are_fetched_alone_and_later_ones_by_name(tmp_path: Path) -> None:
    kept = Kept(tmp_path, artifact("a") | artifact("b"))
    kept.update(["a"])
    assert kept.here() == artifact("a")
    kept.update(["b"])
    assert kept.here() == artifact("a") | artifact("b")


def test_a_model_that_is_gone_there_is_gone_here(tmp_path: Path) -> None:
    kept = Kept(tmp_path, artifact("a") | artifact("b"))
    kept.update()
    kept.shelf.files = artifact("a")
    kept.update()
    assert kept.here() == artifact("a")


def test_no_more_than_one_older_copy_of_a_model_is_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for number in range(1, 5):
        kept.shelf.files |= artifact("a", number, f"graph {number}".encode())
        assert kept.update() == {}
    assert len(list((tmp_path / "copies" / "a").iterdir())) == 2
    graphs = [path.read_bytes() for path in (tmp_path / "blobs").iterdir()]
    assert sorted(one for one in graphs if one.startswith(b"graph")) == [b"graph 3", b"graph 4"]


def test_the_version_policy_says_which_versions_are_fetched(tmp_path: Path) -> None:
    files = artifact("a") | artifact("a", 2) | artifact("a", 3, b"third")
    files["a/config.pbtxt"] += b"version_policy { specific { versions: [1, 3, 9] } }"
    kept = Kept(tmp_path, files)
    kept.update()
    assert kept.here() == {path: one for path, one in files.items() if "/2/" not in path}


def test_models_without_a_manifest_come_as_they_lie_there(tmp_path: Path) -> None:
    files = {"bare/1/model.onnx": b"graph", "bare/1/weights/w.bin": b"weights"}
    beside = {"README.md": b"no model", ".hidden/1/model.onnx": b"", "b/1/.part/x": b""}
    kept = Kept(tmp_path, files | beside)
    assert kept.update() == {}
    assert kept.here() == files


def test_several_processes_share_one_cache(tmp_path: Path) -> None:
    kept = Kept(tmp_path, artifact("a") | artifact("b"))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: kept.update(), range(4))) == [{}] * 4
    assert kept.here() == artifact("a") | artifact("b")
    assert kept.shelf.fetched == 6  # of eight files each has two that the other has too


@pytest.mark.parametrize(
    "path", ["../evil", "bad/../../evil", "/evil", "bad//evil", "bad/./x", "bad/a\\b", "bad/a\nb"]
)
def test_a_name_that_leads_elsewhere_is_refused_by_name_and_no_other_model_for_it(
    tmp_path: Path, path: str
) -> None:
    kept = Kept(tmp_path / "cache", artifact("good") | artifact("bad") | {path: b"evil"})
    assert [*kept.update().values()] == [f"{path!r} is no path below a model: refused"]
    assert artifact("good").items() <= kept.here().items()
    assert not [one for one in tmp_path.rglob("*") if "evil" in one.name or one.name == "x"]


def test_a_checksum_that_is_a_path_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    files = artifact("a")
    files["a/1/manifest.json"] = b'{"files": {"1/model.onnx": "%s"}}' % str(secret).encode()
    assert Kept(tmp_path / "cache", files).update()["a"].endswith("as the sha256 of 1/model.onnx")


def test_bytes_that_are_not_what_the_manifest_promises_are_refused(tmp_path: Path) -> None:
    why = Kept(tmp_path, artifact("a") | {"a/1/model.onnx": b"GRAPH"}).update()["a"]
    digests = [sha256(graph).hexdigest() for graph in (b"GRAPH", b"graph")]
    assert why == "a/1/model.onnx came with sha256 {}, it has {}".format(*digests)


def test_files_that_are_exchanged_while_they_come_are_not_mixed(tmp_path: Path) -> None:
    new = {"a/1/model.onnx": b"GRAPH", "a/1/model.onnx.data": b"WEIGHTS"}
    kept = Kept(tmp_path, {"a/1/model.onnx": b"graph", "a/1/model.onnx.data": b"weights"})
    kept.shelf.exchanged = new
    assert "was changed while it was fetched" in kept.update()["a"]
    assert kept.update() == {}
    assert kept.here() == new


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://AKIA:hunter2@bucket", "without credentials and without a query"),
        ("https://host/models?sig=hunter2", "without credentials and without a query"),
        ("ftp://host/models", "there are no ftp:// addresses, there are s3://"),
        ("s3://", "s3:// is written as s3://bucket/prefix"),
        ("hf://name", "hf://name is written as hf://org/name@revision"),
        ("file://host/x", "file://host/x is written as file:///folder"),
    ],
)
def test_an_address_that_cannot_be_is_told_what_can_and_never_its_secrets(
    text: str, told: str
) -> None:
    with pytest.raises(StartError, match=re.escape(told)) as raised:
        parse_repository(text)
    assert "hunter2" not in str(raised.value)


def test_a_library_that_is_missing_is_told_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    place = Place(None, "x", tmp_path)
    with pytest.raises(StartError, match=r"pip install 'nyquist-serving\[sources\]'"):
        place.start()


def test_what_libraries_say_loses_its_secrets() -> None:
    line = "GET https://me:hunter2@host/x?X-Amz-Signature=abc&y=1 failed, see (https://host/y?z=1)"
    assert without_secrets(line) == "GET https://host/x?... failed, see (https://host/y?...)"


def test_a_file_address_is_the_folder_itself() -> None:
    assert parse_repository("file:///models/a%20b") == Path("/models/a b")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    """A server of pages, where huggingface_hub looks for the Hub."""
    with pages() as running:
        hub = f"http://{running.host}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
        files = f"{hub}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield running


def place_of(site: Pages, text: str, cache: Path) -> Place:
    place = Place(None, "", cache)
    place.address = parse_repository(text.format(site.host))
    assert not isinstance(place.address, Path)
    place.folder = repository_of(place.address, cache)
    return place


ARTIFACT, IMAGE = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)


@pytest.mark.parametrize(
    ("address", "made"),
    [
        ("http://{}/models", of_the_web),
        ("hf://team/nets", of_the_hub),
        ("hf://team/nets@v1", of_the_hub),
        ("oci://{}/team/nets:v1", lambda files: of_a_registry(files, ARTIFACT)),
        ("oci://{}/team/nets:v1", lambda files: of_a_registry({"a": tar(files)}, IMAGE)),
        ("oci://{}/team/nets:v1", lambda files: of_a_registry({"_": tar(files)}, IMAGE)),
    ],
    ids=["web", "hub", "revision", "artifact", "folder", "image"],
)
def test_models_come_from_a_web_server_the_hub_and_a_registry_and_no_file_of_theirs_twice(
    site: Pages,
    tmp_path: Path,
    address: str,
    made: Callable[[Mapping[str, bytes]], dict[str, bytes]],
) -> None:
    files = artifact("a")
    site.pages = made(files | {"README.md": b"beside the models"})
    place = place_of(site, address, tmp_path)
    assert place.start() == Fetched()
    assert place.here() == files
    site.asked.clear()
    assert place.start() == Fetched()
    assert not [path for path in site.asked if path.endswith("model.onnx") or "blobs" in path]
    new = artifact("a", 2, b"better")
    site.pages = made(files | new)
    assert place.fetch() == Fetched()
    assert place.here() == new


def test_a_link_in_a_tar_is_refused_by_name(site: Pages, tmp_path: Path) -> None:
    site.pages = of_a_registry({"a": tar(artifact("a"), "a/1/passwd")}, IMAGE)
    with pytest.raises(StartError, match="'a/1/passwd' is no file: links and devices are refused"):
        place_of(site, "oci://{}/team/nets:v1", tmp_path).start()


def test_a_blob_of_another_digest_is_refused(
    site: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nyquist.server.sources.fetching.FIRST_PAUSE_S", 0.0)
    site.pages = of_a_registry(artifact("a"), ARTIFACT)
    wrong = {path: b"wrong" for path in site.pages if "blobs" in path}
    site.pages |= wrong
    assert (
        "a blob came with sha256"
        in place_of(site, "oci://{}/team/nets:v1", tmp_path).start().failures["a"]
    )


@pytest.mark.parametrize("line", ["deadbeef  a/1/model.onnx", "<html>"])
def test_what_is_no_list_of_checksums_is_told(site: Pages, tmp_path: Path, line: str) -> None:
    site.pages = {"/models/SHA256SUMS": line.encode()}
    with pytest.raises(StartError, match=re.escape(f"SHA256SUMS has the line {line!r}")):
        place_of(site, "http://{}/models", tmp_path).start()
