"""Who may call what: every RPC in one table, and the tokens that open its classes.

method, metadata -> class of the method -> token -> admitted, or a refusal
token files -> read again once they change -> the tokens of the calls that come from then on

A method that is not in the table does not exist for callers.
"""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from nyquist.server.artifact.file_mark import mark_of
from nyquist.server.front.settings import ListenerSecurity, SecuritySettings
from nyquist.server.wire.connection import is_loopback
from nyquist.server.wire.errors import PermissionDenied, StartError, Unauthenticated

TOKEN_LENGTH = 16
BEARER = "Bearer "
RENEWAL_PERIOD_S = 1.0

logger = logging.getLogger(__name__)

Metadata = Iterable[tuple[str, str | bytes]]


class Access(Enum):
    """What a method is for, which decides who may call it."""

    HEALTH = "health"
    REFLECTION = "reflection"
    USE = "use"
    REPOSITORY = "repository"


_INFERENCE = {
    "ServerLive": Access.HEALTH,
    "ServerReady": Access.HEALTH,
    "ModelReady": Access.HEALTH,
    "ServerMetadata": Access.USE,
    "ModelMetadata": Access.USE,
    "ModelConfig": Access.USE,
    "ModelStatistics": Access.USE,
    "ModelInfer": Access.USE,
    "ModelStreamInfer": Access.USE,
    "RepositoryIndex": Access.REPOSITORY,
    "RepositoryModelLoad": Access.REPOSITORY,
    "RepositoryModelUnload": Access.REPOSITORY,
    "TraceSetting": Access.REPOSITORY,
    "LogSettings": Access.REPOSITORY,
    "SystemSharedMemoryStatus": Access.USE,
    "SystemSharedMemoryRegister": Access.USE,
    "SystemSharedMemoryUnregister": Access.USE,
    "CudaSharedMemoryStatus": Access.USE,
    "CudaSharedMemoryRegister": Access.USE,
    "CudaSharedMemoryUnregister": Access.USE,
}

ACCESS: dict[str, Access] = {
    **{f"/inference.GRPCInferenceService/{name}": access for name, access in _INFERENCE.items()},
    # the companion's
    "/nyquist.v1.Shadow/Mirror": Access.USE,
    "/nyquist.v1.Validation/CheckParity": Access.USE,
    "/nyquist.v1.Validation/CheckShiftConsistency": Access.USE,
    "/nyquist.v1.Validation/CompareLatency": Access.USE,
    "/nyquist.v1.Validation/DescribeModel": Access.USE,
    "/grpc.health.v1.Health/Check": Access.HEALTH,
    "/grpc.health.v1.Health/List": Access.HEALTH,
    "/grpc.health.v1.Health/Watch": Access.HEALTH,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access.REFLECTION,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Access.REFLECTION,
}


@dataclass(frozen=True)
class Tokens:
    """What callers may prove themselves with, as SHA-256 digests: one length, no secret to print.

    Attributes:
        use: let callers ask for inference and metadata.
        repository: let them load, unload and change settings too, and all that `use` allows.
    """

    use: frozenset[bytes] = frozenset()
    repository: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.use or self.repository)


class Authorizer:
    """Decides whether a call may come in; cheap, because it is asked for each one.

    Args:
        tokens: none of them leaves all but the repository open.
        closed: classes that nobody may call.
        open_to_all: classes that need no token.
        renewed: looks where the tokens come from, and returns them as they are now; called in a
            thread. None of them vanish as a whole: what is closed or open stays so.
    """

    def __init__(
        self,
        tokens: Tokens,
        closed: frozenset[Access],
        open_to_all: frozenset[Access],
        renewed: Callable[[], Tokens] | None = None,
    ) -> None:
        self._tokens, self._closed, self._open = tokens, closed, open_to_all
        self._renewed = renewed

    async def keep_current(self, period_s: float = RENEWAL_PERIOD_S) -> None:
        """Take up the tokens of files that change, until cancelled."""
        while self._renewed is not None:
            await asyncio.sleep(period_s)
            self._tokens = await asyncio.to_thread(self._renewed)

    def check(self, method: str, access: Access, metadata: Metadata) -> None:
        """Return if the caller may call a method of this class.

        Raises:
            Unauthenticated: it has no token, or a wrong one.
            PermissionDenied: its token is good, but not for this.
        """
        if access in self._open:
            return
        name = method.rpartition("/")[2]
        if access in self._closed:
            raise PermissionDenied(f"{name} is closed: no repository token is configured")
        if not self._tokens:
            return
        sent = [value for key, value in metadata if key == "authorization"]
        if len(sent) != 1:
            raise Unauthenticated(
                f"{name} needs a token, sent once as 'authorization: {BEARER}<token>'"
            )
        digest = _digest(sent[0])
        if _is_one_of(digest, self._tokens.repository):
            return
        if not _is_one_of(digest, self._tokens.use):
            raise Unauthenticated(f"the token that came with {name} is not known here")
        if access is Access.REPOSITORY:
            raise PermissionDenied(f"{name} needs a repository token; this one is for inference")

    def lets_all(self, access: Access) -> bool:
        """Say whether everyone may call methods of a class."""
        return access in self._open or not (self._tokens or access in self._closed)

    def admits_some(self, access: Access) -> bool:
        """Say whether there is anyone who may call methods of a class."""
        return access not in self._closed

    def in_words(self) -> dict[str, str]:
        """Say for each class who may call it."""
        return {access.value: self._who(access) for access in Access}

    def _who(self, access: Access) -> str:
        if self.lets_all(access):
            return "all"
        if access in self._closed:
            return "nobody"
        return "repository token" if access is Access.REPOSITORY else "token"


def make_authorizer(settings: SecuritySettings, host: str, prefix: str) -> Authorizer:
    """Read the tokens and decide which classes stand open.

    Without any token the repository is open on a loopback address alone.

    Args:
        settings: of the operator.
        host: that is listened on.
        prefix: of the variables of the environment that may hold tokens.

    Raises:
        StartError: a token file cannot be read, or a token is too short to be one.
    """
    use = TokenSource(settings, "token", prefix)
    repository = TokenSource(settings, "repository_token", prefix)
    tokens = Tokens(use.digests, repository.digests)
    trusted = not tokens and is_loopback(host)
    closed = frozenset() if tokens.repository or trusted else frozenset({Access.REPOSITORY})
    from_files = use.path or repository.path
    renewed = (lambda: Tokens(use.renewed(), repository.renewed())) if from_files else None
    return Authorizer(tokens, closed, standing_open(settings), renewed)


def standing_open(settings: ListenerSecurity) -> frozenset[Access]:
    """Return the classes that need no token."""
    asked = {Access.HEALTH: settings.health_access, Access.REFLECTION: settings.reflection}
    return frozenset(access for access, setting in asked.items() if setting == "open")


def exposure(host: str, settings: ListenerSecurity) -> str:
    """Return a line if others can reach what nothing protects, else nothing."""
    if is_loopback(host):
        return ""
    names = type(settings).model_fields
    sources = [name for name in names if name.endswith(("token", "token_file"))]
    with_tokens = any(getattr(settings, source) for source in sources)
    if with_tokens and not settings.tls_certificate:
        return "tokens travel unencrypted: there is no --tls-certificate"
    if not with_tokens and not settings.tls_client_ca:
        return f"whoever reaches {host} may call: there is no token and no client authority"
    return ""


class TokenSource:
    """Where the tokens of one sort come from: a file, a variable of the environment, or nowhere.

    Attributes:
        path: of the file, if there is one.
        digests: of the tokens, as they last could be read.

    Raises:
        StartError: the file cannot be read, or a token is too short to be one.
    """

    def __init__(self, settings: ListenerSecurity, name: str, prefix: str) -> None:
        self.path: Path | None = getattr(settings, f"{name}_file")
        if self.path is None:
            secret = getattr(settings, name)
            text = secret.get_secret_value() if secret else ""
            self.digests = _digests(text, f"{prefix}{name.upper()}")
            return
        self._seen = mark_of(self.path)
        self.digests = _digests_of(self.path)

    def renewed(self) -> frozenset[bytes]:
        """Read the file again if it has changed; what cannot be used leaves the tokens as they are.

        Said once for each change: the next look finds the same file again.
        """
        if self.path is None or (mark := mark_of(self.path)) == self._seen:
            return self.digests
        self._seen = mark
        try:
            self.digests = _digests_of(self.path)
        except StartError as error:
            logger.error("the old tokens stay: %s", error)  # noqa: TRY400 - one line is all
        else:
            logger.info("tokens of %s read again: %d", self.path, len(self.digests))
        return self.digests


def _digests_of(path: Path) -> frozenset[bytes]:
    digests = _digests(_text_of(path), str(path))
    if not digests:
        raise StartError(f"{path} has no token")
    return digests


def _digests(text: str, source: str) -> frozenset[bytes]:
    tokens = text.split()
    if any(len(token) < TOKEN_LENGTH or not token.isascii() for token in tokens):
        raise StartError(
            f"a token of {source} is too short or not ASCII; {TOKEN_LENGTH} characters at least"
        )
    return frozenset(_digest(BEARER + token) for token in tokens)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StartError(f"tokens cannot be read from {path}: {error}") from error


def _digest(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(raw).digest()


def _is_one_of(digest: bytes, known: frozenset[bytes]) -> bool:
    """Compare with each in the same time, whichever it is."""
    return sum(hmac.compare_digest(digest, one) for one in known) > 0
