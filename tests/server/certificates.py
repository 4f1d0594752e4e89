"""A certificate authority for tests, and what it signs, as PEM files."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates and writes them into a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._ca = folder, trustme.CA()
        self.root = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.root))

    def issue(self, file: str, *names: str) -> Identity:
        """Sign a certificate for host names; written again, it is another one."""
        identity = Identity(self._folder / f"{file}.pem", self._folder / f"{file}.key")
        leaf = self._ca.issue_cert(*names)
        identity.certificate.write_bytes(b"".join(p.bytes() for p in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(identity.key))
        return identity

    def channel(self, target: str, identity: Identity | None = None) -> grpc.Channel:
        """Open a channel that trusts this authority, and shows an identity if it has one."""
        credentials = grpc.ssl_channel_credentials(
            self.root.read_bytes(),
            identity.key.read_bytes() if identity else None,
            identity.certificate.read_bytes() if identity else None,
        )
        return grpc.secure_channel(target, credentials)
