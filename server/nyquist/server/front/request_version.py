"""A model's version as callers name it."""

import re

from nyquist.server.wire.errors import InvalidRequest

_VERSION = re.compile(r"[0-9]{1,18}")


def version_number(text: str) -> int | None:
    """Read a version; None for the empty one, which leaves the choice to the server.

    Raises:
        InvalidRequest: it is no whole number above 0.
    """
    if not text:
        return None
    if not (_VERSION.fullmatch(text) and int(text) > 0):
        raise InvalidRequest(
            f"failed to get model version from specified version string '{text[:40]}', "
            "version should be an integral value > 0"
        )
    return int(text)
