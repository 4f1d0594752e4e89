"""What a build leaves of one model. Read without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it imports numpy, which --help is not to wait for
    from nyquist.server.artifact.manifest import Manifest

DEFAULT_KEEP = 3
"""Most versions of a model that a repository holds."""


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
