"""Where models lie: a folder of this machine, or the address of a store.

text of --repository -> Path | Address
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from nyquist.server.wire.errors import StartError

EXAMPLES = {
    "s3": "s3://bucket/prefix",
    "gs": "gs://bucket/prefix",
    "az": "az://container/prefix",
    "hf": "hf://org/name@revision",
    "oci": "oci://registry/name:tag",
    "https": "https://host/folder",
    "http": "http://host/folder",
    "file": "file:///folder",
}
"""An address of each scheme."""

_USER = re.compile(r"(?<=://)[^/\s@]*@")
_QUERY = re.compile(r"(?<=[^\s?])\?[^\s'\")]*=[^\s'\")]*")
_OTHERS = re.compile(r"[^A-Za-z0-9.]+")
_SLUG = 60


@dataclass(frozen=True)
class Address:
    """A place in a store.

    Attributes:
        scheme: of EXAMPLES.
        place: what follows the scheme, without a slash at its end.
    """

    scheme: str
    place: str

    def __str__(self) -> str:
        """Return it as it was written. There are no credentials in it."""
        return f"{self.scheme}://{self.place}"

    @property
    def folder_name(self) -> str:
        """A name for what is kept of it: readable, and no other address has it."""
        digest = hashlib.sha256(str(self).encode()).hexdigest()[:12]
        return f"{_OTHERS.sub('-', str(self))[:_SLUG].strip('-')}-{digest}"


def parse_repository(text: str) -> Path | Address:
    """Return the folder or the address that a text names.

    Raises:
        StartError: it is no address, or has credentials in it. Those are never repeated.
    """
    scheme, mark, place = text.partition("://")
    if not mark:
        return Path(text)
    if scheme not in EXAMPLES:
        raise StartError(
            f"repository: there are no {scheme}:// addresses, there are "
            f"{', '.join(f'{known}://' for known in EXAMPLES)} and folders"
        )
    example = EXAMPLES[scheme]
    if "@" in place.partition("/")[0] or "?" in place or "#" in place:
        raise StartError(
            f"repository: {scheme}:// addresses are written as {example}, without credentials and "
            "without a query: they are read from where the libraries of the store look for them"
        )
    if scheme == "file":
        if not place.startswith("/"):
            raise StartError(f"repository: file://{place} is written as {example}")
        return Path(unquote(place))
    place = place.rstrip("/")
    parts = [part for part in place.split("/") if part]
    nameless = scheme == "oci" and not {".", ":"}.intersection(place.partition("/")[0])
    if len(parts) < (2 if scheme in ("hf", "oci") else 1) or nameless:
        raise StartError(f"repository: {scheme}://{place} is written as {example}")
    return Address(scheme, place)


def without_secrets(text: str) -> str:
    """Return a line without users and passwords, and without the queries of signed addresses."""
    return _QUERY.sub("?...", _USER.sub("", text))
