"""python -m nyquist.server.healthcheck: does the server of this container serve? Exit 0 or 1.

options of the server -> Connection -> grpc.health.v1 Check -> exit status

It reads the server's own variables and file, so that a container needs no other configuration.
"""

import argparse
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nyquist.server.settings import Settings, read_settings
from nyquist.server.wire.connection import (
    NO_PROXY,
    Connection,
    WrongConnection,
    add_connection_options,
)
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.listening import address, unix_path

TIMEOUT_S = 3.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not opened
"""One that http_proxy names for other calls would be asked for this very machine."""
SERVING = health_pb2.HealthCheckResponse.SERVING


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; see `python -m nyquist.server.healthcheck --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m nyquist.server.healthcheck",
        description="Ask a server by grpc.health.v1 whether it serves. Exit status: 0 yes, 1 no.",
        epilog="What is left out comes from the server's own options: NYQUIST_* and their file.",
    )
    parser.add_argument("--model", default="", help="ask for one model (default: the server)")
    parser.add_argument("--target", help="HOST:PORT (default: the server of this container)")
    parser.add_argument(
        "--timeout-s", type=float, default=TIMEOUT_S, help="longest wait (default: %(default)s)"
    )
    add_connection_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the server answers SERVING in time, else 1 with the reason on stderr."""
    options = parse(arguments)
    try:
        connection = _connection(read_settings({}), options)
        with connection.channel((NO_PROXY,)) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=options.model),
                timeout=options.timeout_s,
                metadata=connection.metadata(),
            )
    except grpc.RpcError as error:
        reason = connection.explain(error)
    except (StartError, WrongConnection) as error:
        reason = str(error)
    else:
        if answer.status == SERVING:
            return 0
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        reason = f"{connection.target}: {status}"
    sys.stderr.write(f"{reason}\n")
    return 1


def _connection(settings: Settings, options: argparse.Namespace) -> Connection:
    """Join what the command line says with what the server itself was told.

    Raises:
        WrongConnection: of the server's certificate, or of an option.
    """
    target = options.target or _own_target(settings)
    ca, name = options.ca or settings.tls_certificate, ""
    if ca is not None and not options.ca:
        # The address of this machine need not be in the certificate; the file is proof enough.
        try:
            name = _name_in_certificate(target, ca, options.timeout_s)
        except OSError as error:
            raise WrongConnection(f"{target}: {error}") from error
    asked = settings.health_access == "token"
    return Connection(
        target=target,
        ca=ca,
        client_certificate=options.client_certificate,
        client_key=options.client_key,
        token=settings.token.get_secret_value() if settings.token and asked else "",
        token_file=options.token_file or (settings.token_file if asked else None),
        certified_name=name,
    )


def _own_target(settings: Settings) -> str:
    host = ANY_ADDRESS.get(settings.host, settings.host)
    return address(host, settings.port)


def _name_in_certificate(target: str, trusted: Path, timeout_s: float) -> str:
    """Return a name of the certificate that the server shows, once it proves to be the file's.

    Raises:
        OSError: nobody listens, or the certificate is another one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(trusted)
    context.set_alpn_protocols(["h2"])
    with _connected(target, timeout_s) as plain, context.wrap_socket(plain) as secured:
        shown: dict[str, Any] = dict(secured.getpeercert() or {})
    names: list[str] = [name for _, name in shown.get("subjectAltName", ())]
    if not names:
        raise OSError("the server's certificate has no subjectAltName; name its authority in --ca")
    return names[0].replace("*", "any", 1)


def _connected(target: str, timeout_s: float) -> socket.socket:
    if (path := unix_path(target)) is None:
        host, _, port = target.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
    plain = socket.socket(socket.AF_UNIX)
    plain.settimeout(timeout_s)
    plain.connect(os.fspath(path))
    return plain


if __name__ == "__main__":
    sys.exit(main())
