"""python -m server.healthcheck: ask the server of this container whether it serves; exit 0 or 1.

options of the server -> its address, its certificate -> grpc.health.v1 Check -> exit status

It reads the server's own variables and file, so that a container needs no other configuration.
"""

import argparse
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.errors import StartError
from server.settings import Settings, read_settings

TIMEOUT_S = 3.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not opened
SERVING = health_pb2.HealthCheckResponse.SERVING


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; see `python -m server.healthcheck --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m server.healthcheck",
        description="Ask a server by grpc.health.v1 whether it serves. Exit status: 0 yes, 1 no.",
        epilog="What is left out comes from the server's own options: NYQUIST_* and their file.",
    )
    parser.add_argument("--model", default="", help="ask for one model (default: the server)")
    parser.add_argument("--target", help="HOST:PORT (default: the server of this container)")
    parser.add_argument(
        "--timeout-s", type=float, default=TIMEOUT_S, help="longest wait (default: %(default)s)"
    )
    parser.add_argument(
        "--ca", type=Path, help="PEM file to trust (default: the server's own certificate)"
    )
    parser.add_argument(
        "--client-certificate", type=Path, help="PEM file, where the server asks callers for one"
    )
    parser.add_argument("--client-key", type=Path, help="PEM file: its private key")
    parser.add_argument(
        "--token-file", type=Path, help="where health asks for a token (default: the server's)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the server answers SERVING in time, else 1 with the reason on stderr."""
    options = parse(arguments)
    target = options.target or ""
    try:
        settings = read_settings({})
        target = target or _own_target(settings)
        with _channel(target, settings, options) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=options.model),
                timeout=options.timeout_s,
                metadata=_token(settings, options),
            )
    except grpc.RpcError as error:
        reason = error.code().name
    except (OSError, StartError) as error:
        reason = str(error)
    else:
        if answer.status == SERVING:
            return 0
        reason = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stderr.write(f"{target}: {reason}\n")
    return 1


def _own_target(settings: Settings) -> str:
    host = ANY_ADDRESS.get(settings.host, settings.host)
    return f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"


def _channel(target: str, settings: Settings, options: argparse.Namespace) -> grpc.Channel:
    trusted = options.ca or settings.tls_certificate
    if trusted is None:
        return grpc.insecure_channel(target)
    identity = options.client_key and options.client_certificate
    credentials = grpc.ssl_channel_credentials(
        trusted.read_bytes(),
        options.client_key.read_bytes() if identity else None,
        options.client_certificate.read_bytes() if identity else None,
    )
    if options.ca:
        return grpc.secure_channel(target, credentials)
    # The address of this machine need not be in the certificate; the file is proof enough.
    name = _name_in_certificate(target, trusted, options.timeout_s)
    return grpc.secure_channel(
        target, credentials, options=(("grpc.ssl_target_name_override", name),)
    )


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
    host, _, port = target.rpartition(":")
    address = (host.strip("[]"), int(port))
    with (
        socket.create_connection(address, timeout=timeout_s) as plain,
        context.wrap_socket(plain) as secured,
    ):
        shown: dict[str, Any] = dict(secured.getpeercert() or {})
    names: list[str] = [name for _, name in shown.get("subjectAltName", ())]
    if not names:
        raise OSError("the server's certificate has no subjectAltName; name its authority in --ca")
    return names[0].replace("*", "any", 1)


def _token(settings: Settings, options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Return the metadata that a health check needs, if it needs any."""
    if settings.health_access == "open" and not options.token_file:
        return ()
    path = options.token_file or settings.token_file
    text = settings.token.get_secret_value() if settings.token else ""
    tokens = (path.read_text(encoding="utf-8") if path else text).split()
    return (("authorization", f"Bearer {tokens[0]}"),) if tokens else ()


if __name__ == "__main__":
    sys.exit(main())
