"""TLS of the gRPC port: files -> checked pair -> credentials that notice renewed files."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from nyquist.server.artifact.file_mark import Mark, mark_of
from nyquist.server.front.settings import ListenerSecurity
from nyquist.server.wire.errors import StartError

logger = logging.getLogger(__name__)

Configuration = grpc.ServerCertificateConfiguration


@dataclass(frozen=True)
class CertificateFiles:
    """The PEM files of the server's side.

    Attributes:
        certificate: of the server, and its chain.
        key: the private key of it.
        client_ca: who signs the certificates that callers must show; None asks for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None

    def read(self) -> Configuration:
        """Read the files as gRPC takes them.

        Raises:
            StartError: one cannot be read, is no PEM, or the key is another certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise StartError(f"TLS: {self.certificate} and {self.key}: {_why(error)}") from error
        try:
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
        except OSError as error:
            raise StartError(f"TLS: {self.client_ca}: {_why(error)}") from error
        return grpc.ssl_server_certificate_configuration(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            self.client_ca.read_bytes() if self.client_ca else None,
        )

    def marks(self) -> tuple[Mark, ...]:
        """Return what differs once a file has been renewed."""
        files = (self.certificate, self.key, self.client_ca)
        return tuple(mark_of(path) for path in files if path)


class Renewal:
    """Answers with the new certificate once its files have changed; gRPC asks at each handshake."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files, self._seen = files, files.marks()

    def __call__(self) -> Configuration | None:
        now = self._files.marks()
        if now == self._seen:
            return None
        self._seen = now
        try:
            renewed = self._files.read()
        except (StartError, OSError) as error:
            logger.error("the TLS files cannot be read again, the old ones stay: %s", error)  # noqa: TRY400 - one line is all
            return None
        if self._files.marks() != now:
            return None  # written to meanwhile: certificate and key may not fit; the next one looks
        logger.info("TLS: certificate renewed")
        return renewed


def certificate_files(settings: ListenerSecurity) -> CertificateFiles | None:
    """Return the files that the settings name; None without TLS."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return CertificateFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def make_credentials(settings: ListenerSecurity) -> grpc.ServerCredentials | None:
    """Return the credentials that the settings ask for; None without TLS.

    Raises:
        StartError: the files are not to be used.
    """
    files = certificate_files(settings)
    if files is None:
        return None
    return grpc.dynamic_ssl_server_credentials(
        files.read(),
        cast(Callable[[], Configuration], Renewal(files)),  # None, "no change", is not in the stubs
        settings.tls_client_ca is not None,
    )


def tls_in_words(settings: ListenerSecurity) -> str:
    """Say how connections are protected."""
    if settings.tls_certificate is None:
        return "off"
    return "mutual" if settings.tls_client_ca else "on"


def _no_password() -> str:
    raise ValueError("the key is encrypted; the server cannot ask for a password")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error}".lower().replace("_", " ")
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
