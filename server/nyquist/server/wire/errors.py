"""Everything that can go wrong, and the gRPC status that tells the caller.

NyquistError            INTERNAL
├── InvalidRequest      INVALID_ARGUMENT    the caller can mend it
├── ModelNotFound       NOT_FOUND
├── ModelNotReady       UNAVAILABLE         known, and not served now
├── PollingEnabled      UNAVAILABLE         the server itself looks after its repository
├── NotServed           UNIMPLEMENTED       a part of the protocol that is left out on purpose
├── QueueFull           UNAVAILABLE         try again, or elsewhere
├── QueueTimeout        UNAVAILABLE
├── Stopping            UNAVAILABLE
├── TooManyCalls        RESOURCE_EXHAUSTED
├── Unauthenticated     UNAUTHENTICATED     no token, or a wrong one
├── PermissionDenied    PERMISSION_DENIED   a good token, for something else
├── DeadlinePassed      DEADLINE_EXCEEDED
├── InferenceFailed     INTERNAL            onnxruntime refused a valid request
├── LoadFailed          INTERNAL            what was served before is served on
├── ArtifactError       INTERNAL            a model repository is not what its manifest says
├── SourceError         UNAVAILABLE         a place that models are fetched from cannot be read
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
    """Value of the `reason` label of what counts rejections."""


def unreadable(error: OSError) -> str:
    """Say in words, and without a number, which file cannot be read and why."""
    return f"{error.filename} cannot be read: {error.strerror}"


class InvalidRequest(NyquistError):
    """The request contradicts the protocol or the model's inputs."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "invalid"


class ModelNotFound(NyquistError):
    """No model, or no version of it, goes by the name asked for."""

    status = grpc.StatusCode.NOT_FOUND


class ModelNotReady(NyquistError):
    """The version is known and not served: it loads, failed to, or was unloaded."""

    status = grpc.StatusCode.UNAVAILABLE


class PollingEnabled(NyquistError):
    """A caller wants to load or unload what the server loads and unloads itself."""

    status = grpc.StatusCode.UNAVAILABLE


class NotServed(NyquistError):
    """The call, or an option of it, is left out on purpose."""

    status = grpc.StatusCode.UNIMPLEMENTED


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


class TooManyCalls(NyquistError):
    """As many calls run as the server takes at a time."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class TooLarge(NyquistError):
    """A message, or what its headers hold, is larger than one may be."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "too_large"


class TooSlow(NyquistError):
    """A message did not come in the time that it has."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "too_slow"


class Unauthenticated(NyquistError):
    """The call came without a token, or with one that is not known."""

    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(NyquistError):
    """The caller is known and may not call this."""

    status = grpc.StatusCode.PERMISSION_DENIED


class DeadlinePassed(NyquistError):
    """The caller's deadline passed while the request waited; it was not run."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "deadline"


class InferenceFailed(NyquistError):
    """The runtime failed on a request that was valid."""


class LoadFailed(NyquistError):
    """A model could not be loaded on demand."""


class ArtifactError(NyquistError):
    """A model's files are missing, damaged, or not what its manifest promises."""


class SourceError(NyquistError):
    """A place that models are fetched from cannot be read, or holds what cannot be taken."""

    status = grpc.StatusCode.UNAVAILABLE


class StartError(NyquistError):
    """A port is taken, CUDA was required and is not there, no model was found."""
