"""Everything that can go wrong, and the gRPC status that tells the caller.

NyquistError            INTERNAL
├── InvalidRequest      INVALID_ARGUMENT    the caller can mend it
├── ModelNotFound       NOT_FOUND
├── QueueFull           UNAVAILABLE         try again, or elsewhere
├── QueueTimeout        UNAVAILABLE
├── Stopping            UNAVAILABLE
├── DeadlinePassed      DEADLINE_EXCEEDED
├── InferenceFailed     INTERNAL            onnxruntime refused a valid request
├── ArtifactError       INTERNAL            a model repository is not what its manifest says
└── StartError          INTERNAL            the server cannot start as it was asked to

Messages reach the caller: they name the wrong and the right value, never a path or an address.
(ArtifactError and StartError are raised before there is a caller; theirs name paths.)
"""

from typing import ClassVar

import grpc


class NyquistError(Exception):
    """Base of all errors that Nyquist raises itself."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "failed"
    """Value of the `reason` label of nyquist_rejected_total."""


class InvalidRequest(NyquistError):
    """The request contradicts the protocol or the model's inputs."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "invalid"


class ModelNotFound(NyquistError):
    """No model, or no version of it, goes by the name asked for."""

    status = grpc.StatusCode.NOT_FOUND


class QueueFull(NyquistError):
    """As many requests wait for the model, or bytes of all models, as may."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "queue_full"


class QueueTimeout(NyquistError):
    """The request waited for longer than the model's queue policy allows; it was not run."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "timeout"


class Stopping(NyquistError):
    """The model is being shut down and takes no new requests."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "stopping"


class DeadlinePassed(NyquistError):
    """The caller's deadline passed while the request waited; it was not run."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "deadline"


class InferenceFailed(NyquistError):
    """The runtime failed on a request that was valid."""


class ArtifactError(NyquistError):
    """A model's files are missing, damaged, or not what its manifest promises."""


class StartError(NyquistError):
    """A port is taken, CUDA was required and is not there, no model was found."""
