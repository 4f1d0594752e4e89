"""TLS and tokens against server processes: who comes in, who does not, and what the log says."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from nyquist.server.front.access import ACCESS, Access, Authorizer, exposure, make_authorizer
from nyquist.server.front.tls import make_credentials
from nyquist.server.settings import PREFIX, Settings
from nyquist.server.wire.errors import PermissionDenied, StartError, Unauthenticated
from nyquist.server.wire.pb import inference_pb2 as pb
from tests.processes import RunningServer, start_server
from tests.server.certificates import Authority, Identity

pytestmark = pytest.mark.usefixtures("transport")

USE, OTHER_USE = "use-token-0123456789", "second-use-token-987"
REPOSITORY, WRONG = "repository-token-0123", "wrong-token-0123456789"
PIXELS = "1.2345678"
READY = "/inference.GRPCInferenceService/ServerReady"
METADATA = "/inference.GRPCInferenceService/ServerMetadata"
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
SENT = {
    "no token": [],
    "a wrong token": [f"Bearer {WRONG}"],
    "a token without its scheme": [USE],
    "half a token": [f"Bearer {USE[:-1]}"],
    "two tokens": [f"Bearer {WRONG}", f"Bearer {USE}"],
    "two tokens the other way round": [f"Bearer {USE}", f"Bearer {WRONG}"],
    "a use token": [f"Bearer {USE}"],
    "the other use token": [f"Bearer {OTHER_USE}"],
    "a repository token": [f"Bearer {REPOSITORY}"],
}
GOOD = ("a use token", "the other use token", "a repository token")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.issue("server", "127.0.0.1", "localhost")


def becomes(
    wanted: grpc.StatusCode,
    authority: Authority,
    server: RunningServer,
    shown: Identity | None = None,
) -> bool:
    """Connect until a call has a status; h2corn looks for new files from time to time."""
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        with authority.channel(server.target, shown) as channel:
            if code_of(channel, METADATA, []) is wanted:
                return True
    return False


@pytest.fixture(scope="module")
def secure(
    one_model: Path, identity: Identity, tmp_path_factory: pytest.TempPathFactory, transport: str
) -> Iterator[RunningServer]:
    """A server with TLS and with tokens of both sorts."""
    tokens = tmp_path_factory.mktemp("tokens") / "use"
    tokens.write_text(f"{USE}\n{OTHER_USE}\n", encoding="utf-8")
    os.environ["NYQUIST_REPOSITORY_TOKEN"] = REPOSITORY
    try:
        running = start_server(
            one_model,
            (
                *(
                    "--drain-s",
                    "0",
                    "--transport",
                    transport,
                    "--log-level",
                    "debug",
                    "--token-file",
                    str(tokens),
                ),
                *("--tls-certificate", str(identity.certificate)),
                *("--tls-key", str(identity.key)),
            ),
        )
    finally:
        del os.environ["NYQUIST_REPOSITORY_TOKEN"]
    yield running
    assert running.stop() == 0


def bearers(values: list[str]) -> list[tuple[str, str]]:
    return [("authorization", value) for value in values]


def code_of(
    channel: grpc.Channel, method: str, metadata: list[tuple[str, str]], body: bytes = b""
) -> grpc.StatusCode:
    """Call a method of any kind and return the status of its first answer."""
    make: Any = channel.stream_stream(method)
    call = make(iter([body]), metadata=metadata, timeout=20)
    try:
        next(call, None)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    call.cancel()
    return grpc.StatusCode.OK


def test_every_method_of_every_service_is_in_the_access_table() -> None:
    services = [
        *pb.DESCRIPTOR.services_by_name.values(),
        *health_pb2.DESCRIPTOR.services_by_name.values(),
        *reflection_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    served = {f"/{service.full_name}/{method.name}" for service in services
              for method in service.methods}  # fmt: skip
    assert len(served) > 6
    assert served - ACCESS.keys() == set()


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("method", ACCESS)
def test_each_method_is_open_to_the_right_tokens_alone(
    secure: RunningServer, authority: Authority, method: str, sent: str
) -> None:
    may = {
        Access.HEALTH: True,
        Access.REFLECTION: sent in GOOD,
        Access.USE: sent in GOOD,
        Access.REPOSITORY: sent == "a repository token",
    }[ACCESS[method]]
    with authority.channel(secure.target) as channel:
        code = code_of(channel, method, bearers(SENT[sent]))
    served = code is not grpc.StatusCode.UNIMPLEMENTED
    if may or not served:
        assert code not in REFUSED
    elif sent in GOOD:
        assert code is grpc.StatusCode.PERMISSION_DENIED
    else:
        assert code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "method",
    [
        "/inference.GRPCInferenceService/modelinfer",
        "/inference.GRPCInferenceService//ModelInfer",
        "//inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/ModelInfer/",
        "/inference.GRPCInferenceService/ServerLive/../ModelInfer",
        "/INFERENCE.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/%4dodelInfer",
        "/grpc.health.v1.Health/ModelInfer",
    ],
)
def test_no_other_spelling_of_a_method_gets_around_its_token(
    secure: RunningServer, authority: Authority, method: str
) -> None:
    with authority.channel(secure.target) as channel:
        assert code_of(channel, method, []) is grpc.StatusCode.UNIMPLEMENTED


def test_the_log_has_the_summary_and_neither_tokens_nor_pixels(
    secure: RunningServer, authority: Authority
) -> None:
    request = pb.ModelInferRequest(model_name="fashion_strided")
    tensor = request.inputs.add(name="image", datatype="FP32", shape=(1, 1, 48, 48))
    tensor.contents.fp32_contents.extend([float(PIXELS)] * 7)
    body = request.SerializeToString()
    method = "/inference.GRPCInferenceService/ModelInfer"
    with authority.channel(secure.target) as channel:
        for sent in SENT.values():
            code_of(channel, method, bearers(sent), body)
    text = "".join(secure.log)
    assert '"code": "UNAUTHENTICATED"' in text
    assert '"code": "INVALID_ARGUMENT"' in text
    for secret in (USE, OTHER_USE, REPOSITORY, WRONG, PIXELS):
        assert secret not in text
    (ready,) = (line for line in secure.log if '"event": "ready: 1 models' in line)
    for told in ('"tls": "on"', '"use": "token"', '"repository": "repository token"',
                 '"fashion_strided": "version 1 on'):  # fmt: skip
        assert told in ready


def test_a_caller_without_tls_is_not_answered(secure: RunningServer) -> None:
    with grpc.insecure_channel(secure.target) as channel:
        assert code_of(channel, READY, []) is grpc.StatusCode.UNAVAILABLE


def test_the_port_of_the_metrics_has_metrics_alone(secure: RunningServer) -> None:
    address = f"127.0.0.1:{secure.metrics_port}"
    with grpc.insecure_channel(address) as channel:
        for method in (READY, METADATA):
            assert code_of(channel, method, []) is grpc.StatusCode.UNKNOWN  # HTTP 405
    with urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    assert text.startswith("# HELP ")
    assert not any(secret in text for secret in (USE, OTHER_USE, REPOSITORY))
    for path in ("/v2/repository/index", "/v2/models/fashion_strided/infer"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://{address}{path}", timeout=20)


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(
    one_model: Path, authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue("renewed", "127.0.0.1")
    stranger = Authority(tmp_path)
    options = ("--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    running = start_server(one_model, ("--drain-s", "0", *options))
    try:
        with authority.channel(running.target) as channel:
            assert code_of(channel, READY, []) is grpc.StatusCode.OK
        files.certificate.write_text("no PEM", encoding="ascii")
        while not any("the old ones stay" in line for line in running.log):
            with authority.channel(running.target) as channel:
                assert code_of(channel, READY, []) is grpc.StatusCode.OK
        renewed = stranger.issue("renewed", "127.0.0.1")
        files.key.write_bytes(renewed.key.read_bytes())
        files.certificate.write_bytes(renewed.certificate.read_bytes())
        assert becomes(grpc.StatusCode.OK, stranger, running)
        with authority.channel(running.target) as channel:
            assert code_of(channel, READY, []) is grpc.StatusCode.UNAVAILABLE
    finally:
        assert running.stop() == 0


def test_a_renewed_client_authority_decides_who_comes_in(
    one_model: Path, authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    known = tmp_path / "callers.pem"
    known.write_bytes(authority.root.read_bytes())
    options = ("--tls-certificate", str(identity.certificate), "--tls-key", str(identity.key))
    running = start_server(one_model, ("--drain-s", "0", *options, "--tls-client-ca", str(known)))
    caller = authority.issue("known caller", "caller.example")
    newcomer = Authority(tmp_path / "others").issue("newcomer", "caller.example")
    try:
        for comes_in, root in ((caller, authority.root), (newcomer, tmp_path / "others/ca.pem")):
            known.write_bytes(root.read_bytes())
            for shown in (caller, newcomer):
                wanted = grpc.StatusCode.OK if shown is comes_in else grpc.StatusCode.UNAVAILABLE
                assert becomes(wanted, authority, running, shown)
    finally:
        assert running.stop() == 0


def test_with_a_client_authority_only_its_callers_come_in(
    one_model: Path, authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    running = start_server(
        one_model,
        (
            *("--drain-s", "0", "--tls-client-ca", str(authority.root)),
            *("--tls-certificate", str(identity.certificate), "--tls-key", str(identity.key)),
        ),
    )
    try:
        caller = authority.issue("caller", "caller.example")
        with authority.channel(running.target, caller) as channel:
            assert code_of(channel, METADATA, []) is grpc.StatusCode.OK
        stranger = Authority(tmp_path).issue("stranger", "caller.example")
        for unknown in (None, stranger):
            with authority.channel(running.target, unknown) as channel:
                assert code_of(channel, METADATA, []) is grpc.StatusCode.UNAVAILABLE
    finally:
        assert running.stop() == 0
    assert any('"tls": "mutual"' in line for line in running.log)


def test_health_can_ask_for_a_token_and_reflection_can_be_off(
    one_model: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(USE, encoding="ascii")
    options = ("--health-access", "token", "--reflection", "off", "--token-file", str(tokens))
    running = start_server(one_model, ("--drain-s", "0", *options))
    try:
        with grpc.insecure_channel(running.target) as channel:
            for method, access in ACCESS.items():
                if access is Access.HEALTH:
                    assert code_of(channel, method, []) in (
                        grpc.StatusCode.UNAUTHENTICATED,
                        grpc.StatusCode.UNIMPLEMENTED,
                    )
                if access is Access.REFLECTION:
                    code = code_of(channel, method, bearers(SENT["a use token"]))
                    assert code is grpc.StatusCode.UNIMPLEMENTED
            assert code_of(channel, READY, []) is grpc.StatusCode.UNAUTHENTICATED
            assert code_of(channel, READY, bearers(SENT["a use token"])) is grpc.StatusCode.OK
    finally:
        assert running.stop() == 0


def test_tokens_are_exchanged_in_their_file_while_the_server_runs(
    one_model: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(USE, encoding="ascii")
    running = start_server(one_model, ("--drain-s", "0", "--token-file", str(tokens)))

    def refused(token: str) -> bool:
        with grpc.insecure_channel(running.target) as channel:
            code = code_of(channel, METADATA, bearers([f"Bearer {token}"]))
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
        return code is grpc.StatusCode.UNAUTHENTICATED

    try:
        assert refused(OTHER_USE)
        tokens.write_text(f"{OTHER_USE}\n{USE}\n", encoding="ascii")
        wait_until(lambda: not refused(OTHER_USE))
        assert not refused(USE)
        replacement = tmp_path / "replacement"
        replacement.write_text(OTHER_USE, encoding="ascii")
        replacement.rename(tokens)
        wait_until(lambda: refused(USE))
        assert not refused(OTHER_USE)
        tokens.write_text("", encoding="ascii")
        wait_until(lambda: any("has no token" in line for line in running.log))
        assert not refused(OTHER_USE)
    finally:
        assert running.stop() == 0
    assert not any(token in line for line in running.log for token in (USE, OTHER_USE))


def wait_until(condition: Callable[[], bool], at_most_s: float = 30.0) -> None:
    """Ask again until it is so; the server looks at its files once a second."""
    ends = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.05)


def knows(made: Authorizer, token: str) -> bool:
    try:
        made.check("/s/ModelInfer", Access.USE, [("authorization", f"Bearer {token}")])
    except Unauthenticated:
        return False
    return True


class CountingExecutor(ThreadPoolExecutor):
    """Says how often something was done in a thread."""

    count = 0

    def submit(self, *work: Any, **options: Any) -> "Future[Any]":
        self.count += 1
        return super().submit(*work, **options)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_text(""), "has no token"),
        (lambda path: path.write_text("short"), "too short"),
        (lambda path: path.write_bytes(b"\xff" * 20), "cannot be read"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_a_token_file_that_is_spoiled_keeps_the_old_tokens_and_is_complained_of_once(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
    reason: str,
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(USE, encoding="ascii")
    made = authorizer(token_file=tokens)

    async def body() -> None:
        looks = CountingExecutor()
        asyncio.get_running_loop().set_default_executor(looks)
        looking = asyncio.create_task(made.keep_current(0.001))
        async with asyncio.timeout(20):
            spoil(tokens)
            while reason not in caplog.text:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)
            assert knows(made, USE)
            enough = looks.count + 5  # at the same file
            while looks.count < enough:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)
            assert caplog.text.count("the old tokens stay") == 1
            tokens.write_text(OTHER_USE, encoding="ascii")
            while not knows(made, OTHER_USE):  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)
        assert not knows(made, USE)
        looking.cancel()

    asyncio.run(body())
    assert USE not in caplog.text


def authorizer(**options: object) -> Authorizer:
    settings = Settings(**options)  # type: ignore[arg-type] # any option
    return make_authorizer(settings, settings.host, PREFIX)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, None),
        ({"host": "::1"}, None),
        ({"host": "localhost"}, None),
        ({"host": "0.0.0.0"}, PermissionDenied),  # noqa: S104 - the case
        ({"host": "server.example"}, PermissionDenied),
        ({"token": USE}, PermissionDenied),
        ({"repository_token": REPOSITORY}, Unauthenticated),
    ],
)
def test_the_repository_is_open_to_all_on_a_loopback_address_without_tokens_alone(
    options: dict[str, object], error: type[Exception] | None
) -> None:
    made = authorizer(**options)
    if error is None:
        made.check("/s/RepositoryModelLoad", Access.REPOSITORY, [])
        return
    with pytest.raises(error, match="RepositoryModelLoad"):
        made.check("/s/RepositoryModelLoad", Access.REPOSITORY, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "has no token"), ("short", "too short"), ("ä" * 20, "not ASCII")],
)
def test_a_file_of_useless_tokens_is_refused_without_repeating_them(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StartError, match=reason) as refused:
        authorizer(token_file=path)
    assert not text or text not in str(refused.value).replace("too short", "")


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("server.pem", "other.key", "key values mismatch"),
        ("no.pem", "server.key", "no.pem"),
        ("missing.pem", "server.key", "No such file"),
    ],
)
def test_tls_files_that_do_not_fit_are_one_clear_line(
    authority: Authority, identity: Identity, certificate: str, key: str, reason: str
) -> None:
    folder = authority.root.parent
    authority.issue("other", "127.0.0.1")
    (folder / "no.pem").write_text("no PEM", encoding="ascii")
    assert identity.key.is_file()
    settings = Settings(tls_certificate=folder / certificate, tls_key=folder / key)
    with pytest.raises(StartError, match=reason):
        make_credentials(settings)


TLS = {"tls_certificate": "c", "tls_key": "k"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"host": "127.0.0.1"}, ""),
        ({"host": "192.0.2.1"}, "whoever reaches 192.0.2.1 may call"),
        ({"host": "192.0.2.1", **TLS}, "whoever reaches 192.0.2.1 may call"),
        ({"host": "192.0.2.1", "token": USE}, "tokens travel unencrypted"),
        ({"host": "192.0.2.1", "repository_token_file": "f"}, "tokens travel unencrypted"),
        ({"host": "192.0.2.1", "token": USE, **TLS}, ""),
        ({"host": "192.0.2.1", "tls_client_ca": "a", **TLS}, ""),
    ],
)
def test_what_nothing_protects_is_said(options: dict[str, object], line: str) -> None:
    settings = Settings(**options)  # type: ignore[arg-type] # any option
    said = exposure(settings.host, settings)
    assert said.startswith(line)
    assert bool(said) is bool(line)
