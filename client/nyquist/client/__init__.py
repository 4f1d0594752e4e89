"""A client of any Open Inference Protocol server.

>>> from nyquist.client import Client
>>> with Client("localhost:8001", timeout_s=2.0) as client:  # connects at the first call
...     callable(client.classify)
True
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nyquist.client.client import Client, RankedClass, RemoteModel

__all__ = ["Client", "RankedClass", "RemoteModel"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 # what the module has under this name
    """Import gRPC when it is first wanted: a command's help is to be quick."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nyquist.client import client

    return getattr(client, name)
