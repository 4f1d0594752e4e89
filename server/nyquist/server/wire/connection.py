"""How a caller reaches a server: its address, TLS, a token; and what to say when it does not.

options, NYQUIST_TOKEN -> Connection -> channel, metadata ... error -> a line that says what helps
"""

import argparse
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import grpc

from nyquist.server.wire.listening import UNIX

Options = Sequence[tuple[str, str | int]]
NO_PROXY = ("grpc.enable_http_proxy", 0)
Metadata = tuple[tuple[str, str], ...]

DEFAULT_TARGET = "localhost:8001"
NO_SHADOW = "x-nyquist-no-shadow"
"""Sent with calls that are not to be mirrored."""

SOURCE = "x-nyquist-source"
"""Sent with calls that are no live traffic: counted apart, and not mirrored either."""

Source = Literal["client", "probe", "shadow"]
CLIENT: Source = "client"
SOURCES: tuple[Source, ...] = get_args(Source)
"""Who calls: live traffic, reference pictures on a schedule, mirrored pictures that come back."""

TOKEN_VARIABLE = "NYQUIST_TOKEN"  # noqa: S105 - where one is found, not one

_PORT = re.compile(r":[0-9]{1,5}$")
_OF_GRPC = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|xds|vsock):")
"""Targets as gRPC itself writes them, which need no port."""

_NO_GRPC = (
    "what listens there does not speak gRPC; metrics and pages have ports of their own, gRPC "
    "usually 8001"
)
_CLOSED = (
    "if the server has TLS, name its authority with --ca; if it asks callers for a certificate, "
    "one of an authority that it knows with --client-certificate and --client-key"
)


class WrongConnection(ValueError):
    """What a caller was given to reach the server with cannot be used."""


@dataclass(frozen=True)
class Connection:
    """Where a server is and what it takes to be let in. Files are read when they are needed.

    Attributes:
        target: host:port, or unix: and the path of a socket.
        ca: PEM file of the authorities that may have signed the server's certificate, or that
            certificate itself; without it nothing is encrypted.
        client_certificate: PEM file, shown where the server asks callers for one.
        client_key: PEM file, its private key.
        token: sent with each call.
        token_file: whose first line is sent instead; read for each call, so that it can be renewed.
        certified_name: a name that the server's certificate has, if the target's is not among them.

    Raises:
        WrongConnection: the target is no host:port; certificate and key do not come together, or
            come without TLS.
    """

    target: str = DEFAULT_TARGET
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    certified_name: str = ""

    def __post_init__(self) -> None:
        _check_target(self.target)
        if (self.client_certificate is None) != (self.client_key is None):
            raise WrongConnection("--client-certificate and --client-key come together")
        if self.client_certificate and self.ca is None:
            raise WrongConnection("--client-certificate needs --ca: without TLS nobody asks for it")

    def channel(self, options: Options = ()) -> grpc.Channel:
        """Open a channel; to this machine itself never through the proxy of the environment.

        Raises:
            WrongConnection: a file is no PEM, or cannot be read.
        """
        if is_loopback(self.target.rpartition(":")[0].strip("[]")):
            options = (*options, NO_PROXY)
        if self.ca is None:
            return grpc.insecure_channel(self.target, options=list(options))
        if self.certified_name:
            options = (*options, ("grpc.ssl_target_name_override", self.certified_name))
        credentials = grpc.ssl_channel_credentials(
            _pem(self.ca, "--ca", "CERTIFICATE"),
            _pem(self.client_key, "--client-key", "PRIVATE KEY"),
            _pem(self.client_certificate, "--client-certificate", "CERTIFICATE"),
        )
        return grpc.secure_channel(self.target, credentials, options=list(options))

    def metadata(self) -> Metadata:
        """Return what goes with each call: the token, if there is one.

        Raises:
            WrongConnection: the token cannot be read, or sent.
        """
        token = self._token()
        return (("authorization", f"Bearer {token}"),) if token else ()

    def _token(self) -> str:
        source, words = TOKEN_VARIABLE, self.token.split()
        if self.token_file is not None:
            source = f"--token-file {self.token_file}"
            words = _content(self.token_file, "--token-file").decode(errors="replace").split()
            if not words:
                raise WrongConnection(f"{source} has no token")
        token = words[0] if words else ""
        if not (token.isascii() and token.isprintable()):
            raise WrongConnection(f"the token of {source} is not plain ASCII")
        return token

    def explain(self, error: grpc.RpcError) -> str:
        """Say in a line what the server or the way to it had against a call, and what helps."""
        code, details = error.code(), error.details() or ""
        line = f"{self.target}: {code.name}" + (f": {details}" if details else "")
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return f"{line}; {self._on_the_token()}"
        advice = next((told for sign, told in self._advice() if sign in details), "")
        return f"{self.target}: {code.name}: {advice}" if advice else line

    def _on_the_token(self) -> str:
        if self.token_file is not None:
            return f"the token came from --token-file {self.token_file}"
        if self.token:
            return f"the token came from {TOKEN_VARIABLE}"
        return f"give one with --token-file or {TOKEN_VARIABLE}"

    def _advice(self) -> tuple[tuple[str, str], ...]:
        """Return what gRPC's texts mean for a user, by what they contain."""
        host = self.target.rpartition(":")[0]
        nobody = (
            f"nobody listens there; is a server running at {self.target}? Start one with "
            "nyquist serve"
        )
        return (
            (
                "CERTIFICATE_VERIFY_FAILED",
                f"no authority in --ca {self.ca} signed the server's certificate, or its time is "
                "over; name the authority that did",
            ),
            (
                "Hostname Verification Check failed",
                f"the server's certificate is not for {host!r}; call the server by a name that it "
                "has",
            ),
            ("WRONG_VERSION_NUMBER", "the server does not speak TLS; leave --ca out"),
            (
                "Handshake read failed",
                "the TLS handshake was cut off, as where the server does not speak TLS; leave --ca "
                "out",
            ),
            ("Connection refused", nobody),
            ("No such file or directory", nobody),  # the socket of unix:/path
            ("hostname lookup error", f"there is no host {host!r} that could be found from here"),
            ("DNS resolution failed", f"there is no host {host!r} that could be found from here"),
            ("parsing HTTP/2", _NO_GRPC),
            ("http2 header with status: 4", _NO_GRPC),
            # what a TLS alert after the handshake is to gRPC: h2corn sends one
            ("Unwrap failed", f"the server closed the connection; {_CLOSED}"),
            ("Socket closed", f"the server closed the connection; {_CLOSED}"),
            ("Connection reset", f"the server closed the connection; {_CLOSED}"),
        )


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address, or a socket in its file system."""
    if host.startswith(UNIX):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that say how it is let in; the target is its own."""
    group = parser.add_argument_group("TLS and tokens")
    group.add_argument(
        "--ca", type=Path, help="PEM file of who signed the server's certificate; turns TLS on"
    )
    group.add_argument(
        "--client-certificate", type=Path, help="PEM file, where the server asks callers for one"
    )
    group.add_argument("--client-key", type=Path, help="PEM file: its private key")
    group.add_argument(
        "--token-file",
        type=Path,
        help=f"file whose first token is sent; without it {TOKEN_VARIABLE} of the environment is",
    )


def chosen_connection(options: argparse.Namespace) -> Connection:
    """Return the connection that a command line and the environment ask for.

    Raises:
        WrongConnection: the options contradict each other.
    """
    return Connection(
        target=options.target,
        ca=options.ca,
        client_certificate=options.client_certificate,
        client_key=options.client_key,
        token=os.environ.get(TOKEN_VARIABLE, ""),
        token_file=options.token_file,
    )


def _check_target(target: str) -> None:
    """Refuse what gRPC would take for the name of a host, to say only that it finds none."""
    scheme, _, rest = target.partition("://")
    if rest and scheme in ("http", "https", "grpc", "grpcs"):
        rest = rest.strip("/")
        raise WrongConnection(
            f"a target is HOST:PORT without {scheme}://, "
            f"{rest if _PORT.search(rest) else f'such as {DEFAULT_TARGET}'}, got {target!r}"
        )
    if not _PORT.search(target) and not _OF_GRPC.match(target):
        usual = DEFAULT_TARGET.rpartition(":")[2]
        raise WrongConnection(f"a target is HOST:PORT, such as {target}:{usual}, got {target!r}")


def _pem(path: Path | None, option: str, kind: str) -> bytes | None:
    """Read a file of which gRPC would say, if it were no PEM, only that nobody answers."""
    if path is None:
        return None
    content = _content(path, option)
    if f"{kind}-----".encode() not in content:
        raise WrongConnection(f"{option} {path} is no PEM file with a {kind}")
    return content


def _content(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WrongConnection(f"{option} {path} cannot be read: {error.strerror}") from error
