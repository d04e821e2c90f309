"""Access to the web page: who may see it, and what pages of other sites may not do."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgesparse.service.web.connections import Pace
from edgesparse.wording import printable

log = logging.getLogger("edgesparse.service")

REQUESTS_PER_SECOND = 120
LONGEST_WAIT = 3.0
MOST_NAMES = 20
"""Most refused host names that are logged."""
THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
METHODS = ("GET", "HEAD", "POST")

Headers = Mapping[bytes, bytes]


class Door:
    """ASGI middleware: 401 without the token, only METHODS, no commands from other sites, and a rate limit.

    Clients that are refused must reconnect, which the listener's rate limits."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str]) -> None:
        self._app, self._token = app, token.encode() if token is not None else None
        self._hosts = {*THIS_MACHINE, *(host.lower() for host in hosts)}
        self._proxies = self._hosts - THIS_MACHINE
        self._refused: set[str] = set()
        self._pace = Pace(REQUESTS_PER_SECOND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is None and (wait := self._pace.wait(LONGEST_WAIT)) is not None:
            await asyncio.sleep(wait)
            await self._app(scope, receive, send)
            return
        response = refusal or Response(status_code=429)
        response.headers["Connection"] = "close"
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers: Headers = dict(scope["headers"])
        if self._token is not None and not _has(self._token, headers):
            return Response(status_code=401, headers={"WWW-Authenticate": 'Basic realm="edgesparse"'})
        if self._token is None and not self._is_known(_host(headers)):
            return self._unknown(_host(headers))
        if scope["method"] not in METHODS:
            return Response(status_code=405, headers={"Allow": ", ".join(METHODS)})
        if scope["method"] == "POST" and self._is_from_elsewhere(headers):
            return Response("a page of another site may not do this\n", 403, media_type="text/plain")
        return None

    def _is_known(self, host: str) -> bool:
        """Without a token, the server listens on this machine's own address, and host names that another site points
        here are refused (DNS rebinding)."""
        return host.rpartition(":")[0] in self._hosts or host in self._hosts

    def _is_from_elsewhere(self, headers: Headers) -> bool:
        """Whether these headers say that a page of another site sent the request; programs do not send them.

        Behind a proxy the Host may differ from the page's origin. Browsers say which site it was over HTTPS and on this
        machine; elsewhere the proxy's name must be in the settings.
        """
        if (site := headers.get(b"sec-fetch-site")) is not None:
            return site not in (b"same-origin", b"none")
        if (origin := headers.get(b"origin")) is None:
            return False
        try:
            address = urlsplit(origin.decode("latin-1"))
        except ValueError:
            return True
        return address.netloc.lower() != _host(headers) and address.hostname not in self._proxies

    def _unknown(self, host: str) -> Response:
        message = f"the host name '{printable(host)[:100]}' is not allowed: add it to service.web.hosts"
        if host not in self._refused and len(self._refused) < MOST_NAMES:
            self._refused.add(host)
            log.warning("web: %s", message)
        return Response(f"{message}\n", 403, media_type="text/plain")


def _host(headers: Headers) -> str:
    return headers.get(b"host", b"").decode("latin-1").lower()


def _has(token: bytes, headers: Headers) -> bool:
    """Accept the token as a bearer token or as any user's password."""
    return hmac.compare_digest(_presented(headers.get(b"authorization", b"")), token)


def _presented(header: bytes) -> bytes:
    scheme, _, rest = header.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(rest, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
