"""Who may read the pages: requests by a known name, and with a token where there are some.

Host -> allowed? -> token -> the page

Metrics and health are left open: who scrapes or probes them uses names of its own.
"""

import base64
import binascii
import ipaddress
import socket
from collections.abc import Callable, Sequence

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nyquist.server.front.access import BEARER, Access, Authorizer
from nyquist.server.wire.connection import is_loopback
from nyquist.server.wire.errors import NyquistError

OPEN_PATHS = ("/metrics", "/healthz")
ANY = "*"


class Guard:
    """Lets requests through to an application, or refuses them with the reason.

    A page of elsewhere can have its own name resolve to this machine, and would then be read as one
    of this origin; what it cannot do is send another name than its own.

    Args:
        app: that answers.
        allows: whether a request may name this host; see `hosts`.
        authorizer: of the tokens; None lets everyone in.
    """

    def __init__(
        self, app: ASGIApp, allows: Callable[[str], bool], authorizer: Authorizer | None
    ) -> None:
        self._app, self._allows, self._authorizer = app, allows, authorizer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and scope["path"] not in OPEN_PATHS
        refusal = self._refusal(HTTPConnection(scope)) if guarded else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, asked: HTTPConnection) -> PlainTextResponse | None:
        host = asked.headers.get("host", "")
        if not self._allows(host_name(host)):
            words = f"host {host!r} is not known here: --allowed-hosts names those that are\n"
            return PlainTextResponse(words, 421)
        if self._authorizer is None:
            return None
        sent = [("authorization", as_bearer(one)) for one in asked.headers.getlist("authorization")]
        try:
            self._authorizer.check("the page", Access.USE, sent)
        except NyquistError as error:
            asks = {"www-authenticate": 'Basic realm="Nyquist companion, the token as password"'}
            return PlainTextResponse(f"{error}\n", 401, asks)
        return None


def hosts(named: Sequence[str], listening: str) -> Callable[[str], bool]:
    """Return what says whether a request may name a host.

    Args:
        named: by the operator; `*` is any. None of them are the names of this machine alone on a
            loopback address; elsewhere its host name and every IP address, which nobody can make
            resolve to another, too.
        listening: address that is listened on.
    """
    known = {name.strip("[]").lower() for name in named}
    if not known:
        known = {"localhost", listening.lower()}
        if not is_loopback(listening):
            known.add(socket.gethostname().lower())

    def allows(host: str) -> bool:
        if ANY in known or host in known:
            return True
        return not named and (is_loopback(host) if is_loopback(listening) else is_address(host))

    return allows


def host_name(host: str) -> str:
    """Return a Host header without its port and brackets, in lower case."""
    name = host.partition("]")[0].removeprefix("[") if host[:1] == "[" else host.partition(":")[0]
    return name.lower().removesuffix(".")


def is_address(host: str) -> bool:
    """Say whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def as_bearer(authorization: str) -> str:
    """Return credentials as a bearer token; of a browser's, the password, whatever the name."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        password = base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return authorization
    return BEARER + password
