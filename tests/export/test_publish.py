"""Versions that are brought into a bucket: whole or not at all, once, and never written over."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from prometheus_client import CollectorRegistry

from nyquist.export.build import main
from nyquist.export.upload import PublishError, Target, parse_target
from nyquist.server.sources.address import Address
from nyquist.server.sources.fetching import Fetched, Sources, repository_of
from tests.artifacts import add_version, copy_model, edit_manifest
from tests.server.stores import BUCKET, ENVIRONMENT, Faulty, faulty, s3_server

NAME = "fashion_strided"


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[str, int]]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(upstream: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """Where the libraries find an S3 server that has an empty bucket."""
    with faulty(upstream) as running:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": running.url}.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def bucket(proxy: Faulty, upstream: tuple[str, int]) -> Any:
    """The bucket's files, past the proxy."""
    files = fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        use_listings_cache=False,
        endpoint_url="http://{}:{}".format(*upstream),
    )
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    proxy.asked.clear()
    return files


@pytest.fixture
def model(repository: Path, tmp_path: Path) -> Path:
    """A built model, to be given more versions."""
    return copy_model(repository, tmp_path / "built", NAME)


def target() -> Target:
    return Target(parse_target(f"s3://{BUCKET}/prod"))


class Reader:
    """A server's look at the bucket."""

    def __init__(self, cache: Path) -> None:
        self._address, self._cache = Address("s3", f"{BUCKET}/prod"), cache
        self._sources = Sources([self._address], cache, 5.0, CollectorRegistry())

    def versions(self) -> list[str]:
        """Return the versions that it would serve, once it has had a look."""
        assert asyncio.run(self._sources.fetch()) == Fetched()
        folder = repository_of(self._address, self._cache)
        return sorted(path.parent.name for path in folder.glob(f"{NAME}/*/manifest.json"))


def puts(proxy: Faulty) -> list[str]:
    """Return what was written, and forget it."""
    written = [path.split("?")[0] for method, path in proxy.asked if method == "PUT"]
    proxy.asked.clear()
    return [path.removeprefix(f"/{BUCKET}/prod/{NAME}/") for path in written]


def test_what_is_published_is_what_is_here_with_the_manifest_last(
    bucket: Any, proxy: Faulty, model: Path
) -> None:
    there = target()
    assert there.publish(model).versions == (1,)
    written = puts(proxy)
    assert written[0] == "1/labels.txt"
    assert written[-4:] == ["1/model.onnx", "labels.txt", "config.pbtxt", "1/manifest.json"]
    here = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*.*")}
    assert {path: bucket.cat_file(f"{BUCKET}/prod/{NAME}/{path}") for path in written} == here
    assert there.publish(model).versions == ()
    assert puts(proxy) == []


def test_no_reader_sees_half_of_an_upload_that_is_cut_and_the_next_one_goes_on_where_it_ended(
    bucket: Any, proxy: Faulty, model: Path, tmp_path: Path
) -> None:
    del bucket
    reader, there = Reader(tmp_path / "cache"), target()
    there.publish(model)
    assert reader.versions() == ["1"]
    first = [path.replace("1/", "2/") for path in puts(proxy) if "/" in path]
    add_version(model, 2)
    written: list[str] = []
    for _ in first[:-1]:
        proxy.refuses = AfterOne()
        with pytest.raises(PublishError, match="the same command goes on where this one ended"):
            there.publish(model)
        written += puts(proxy)[:1]
        assert reader.versions() == ["1"]
    proxy.refuses = lambda _: False
    assert there.publish(model).versions == (2,)
    assert written + puts(proxy) == first
    assert reader.versions() == ["2"]


class AfterOne:
    """Cuts what is written, but for one object."""

    def __init__(self) -> None:
        self._left = 1

    def __call__(self, method: str) -> bool:
        self._left -= method == "PUT"
        return method == "PUT" and self._left < 0


def test_a_version_that_is_there_with_other_content_is_not_written_over(
    bucket: Any, proxy: Faulty, model: Path
) -> None:
    del bucket
    there = target()
    there.publish(model)
    puts(proxy)
    edit_manifest(model, lambda content: content["files"].update({"1/labels.txt": "0" * 64}))
    with pytest.raises(
        PublishError,
        match=r"^s3://models/prod/\w+ has a version 1 with another 1/labels\.txt: sha256",
    ):
        there.publish(model)
    assert puts(proxy) == []


def test_a_configuration_that_was_edited_there_stays(bucket: Any, model: Path) -> None:
    there = target()
    there.publish(model)
    place = f"{BUCKET}/prod/{NAME}/config.pbtxt"
    edited = bucket.cat_file(place) + b"# slow\n"
    bucket.pipe_file(place, edited)
    add_version(model, 2)
    assert there.publish(model).edited
    assert bucket.cat_file(place) == edited


def test_what_is_no_manifest_there_or_here_is_told(bucket: Any, model: Path) -> None:
    there = target()
    bucket.pipe_file(f"{BUCKET}/prod/{NAME}/7/manifest.json", b"{}")
    with pytest.raises(PublishError, match=r"^s3://models/prod/.*/7/manifest.json is no manifest$"):
        there.publish(model)
    bucket.rm(f"{BUCKET}/prod/{NAME}/7/manifest.json")
    (model / "1" / "manifest.json").write_text("{}")
    with pytest.raises(PublishError, match=r"^it is not published: .*Field required"):
        there.publish(model)


def test_of_two_that_publish_at_a_time_the_second_is_refused(
    bucket: Any, proxy: Faulty, model: Path
) -> None:
    slow = target()
    manifest = f"{BUCKET}/prod/{NAME}/1/manifest.json"

    def other(method: str) -> bool:
        if method == "PUT" and not bucket.exists(manifest):
            bucket.pipe_file(manifest, (model / "1" / "manifest.json").read_bytes())
        return False

    proxy.refuses = other
    with pytest.raises(PublishError, match="cannot be written"):
        slow.publish(model)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("hf://org/name", "cannot be published to, only s3://, gs://, az:// addresses can"),
        ("folder", "folder cannot be published to"),
        ("s3://me:hunter2@bucket", "s3:// addresses are written as s3://bucket/prefix"),
    ],
)
def test_an_address_that_is_not_written_to_is_told(address: str, told: str) -> None:
    with pytest.raises(PublishError, match=told) as raised:
        parse_target(address)
    assert "hunter2" not in str(raised.value)


def test_a_bucket_that_is_not_there_is_told_before_anything_is_built(
    proxy: Faulty, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del proxy
    arguments = ["--only", NAME, "--output", str(tmp_path / "out"), "--publish"]
    assert main([*arguments, "s3://missing/prod"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("error: s3://missing/prod cannot be read: The specified bucket")
    assert main([*arguments, "folder"]) == 2
    assert "folder cannot be published to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
