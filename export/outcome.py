"""How the build of a model ends. Read without torch."""

from dataclasses import dataclass

from server.manifest import Manifest


class ExportError(Exception):
    """The exporter failed, or returned something other than it was asked for."""


class GateMissed(Exception):
    """A figure of a model misses its limit; the previous artifact stays."""


@dataclass(frozen=True)
class Built:
    """One model that is in the repository.

    Attributes:
        manifest: of its newest version.
        size: of model.onnx, bytes.
        seconds: wall time of its build; 0 if nothing had changed.
    """

    manifest: Manifest
    size: int
    seconds: float
