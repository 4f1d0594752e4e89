"""How the build of a model ends. Read without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it imports numpy, which --help is not to wait for
    from nyquist.server.artifact.manifest import Manifest

DEFAULT_KEEP = 3
"""Most versions of a model that a repository holds."""


class BuildError(Exception):
    """A model cannot be published; the previous artifact stays."""


class ExportError(BuildError):
    """The exporter failed, or returned something other than it was asked for."""


class PrecisionError(BuildError):
    """A graph cannot be had in this precision; the message says why."""


class GateMissed(BuildError):
    """A figure of a model misses its limit."""


@dataclass(frozen=True)
class Built:
    """One model that is in the repository.

    Attributes:
        manifest: of its newest version.
        size: of model.onnx, bytes.
        seconds: wall time of its build; 0 if nothing had changed.
    """

    manifest: "Manifest"
    size: int
    seconds: float
