"""The page, metrics and health, over HTTP: who may look, and how much of the machine that may take.

A thread of its own with a low priority. Everybody together gets so many connections and requests a second; what is more
waits, so that visitors cost the frame loop little, whatever they ask for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import hmac
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgesparse.errors import ConfigError
from edgesparse.service import settings
from edgesparse.service.report import Report
from edgesparse.service.settings import SHORTEST_TOKEN, secret
from edgesparse.service.web.metrics import exposition

log = logging.getLogger("edgesparse.service")

MOST_CONNECTIONS = 64
ACCEPTED_A_SECOND = 50
REQUESTS_A_SECOND = 120
LONGEST_WAIT = 3.0
HEADER_SECONDS = 5.0
NICE = 10
SNAPSHOT_SECONDS, SNAPSHOT_PAUSE = 1.5, 0.03

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Pace:
    """So many a second, evenly once the first second's are spent."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._due = 0.0

    def wait(self, longest: float) -> float | None:
        """Seconds until the next one's turn; None, and it has none, where that is longer than `longest`."""
        now = time.monotonic()
        due = max(self._due + self._interval, now - 1.0)
        if due - now > longest:
            return None
        self._due = due
        return max(0.0, due - now)


class Door:
    """ASGI middleware: 401 and nothing else for whoever does not show the token; only GET and HEAD; in turn.

    Those it turns away must connect again, which the listener lets them do so many times a second."""

    def __init__(self, app: ASGIApp, token: str | None, host: str) -> None:
        self._app, self._token = app, token.encode() if token is not None else None
        self._hosts = {"localhost", "127.0.0.1", "[::1]", host.lower()}
        self._pace = Pace(REQUESTS_A_SECOND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, extra = self._verdict(scope)
        if status == 200 and (wait := self._pace.wait(LONGEST_WAIT)) is not None:
            await asyncio.sleep(wait)
            await self._app(scope, receive, send)
            return
        status = 429 if status == 200 else status
        await Response(status_code=status, headers={**extra, "Connection": "close"})(scope, receive, send)

    def _verdict(self, scope: Scope) -> tuple[int, dict[str, str]]:
        if not self._allowed(dict(scope["headers"])):
            return (401, {"WWW-Authenticate": 'Basic realm="edgesparse"'}) if self._token is not None else (403, {})
        return (200, {}) if scope["method"] in ("GET", "HEAD") else (405, {"Allow": "GET, HEAD"})

    def _allowed(self, headers: dict[bytes, bytes]) -> bool:
        """The token as a bearer or as the password of any user. Without one the address is this machine's own, and a
        name that another site's owner lets point here is refused (DNS rebinding)."""
        if self._token is not None:
            return hmac.compare_digest(_shown(headers.get(b"authorization", b"")), self._token)
        name = headers.get(b"host", b"").decode("latin-1").lower()
        return name.rpartition(":")[0] in self._hosts or name in self._hosts


def _shown(header: bytes) -> bytes:
    scheme, _, rest = header.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(rest, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


class Pages:
    """What each address answers."""

    def __init__(self, report: Report, package: Callable[[], Path]) -> None:
        self._report, self._package = report, package
        folder = resources.files("edgesparse.service.web") / "page"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _PAGE.items()}

    def app(self, token: str | None, host: str) -> ASGIApp:
        routes = [
            *(Route(path, self._file) for path in self._files),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/status.json", self._status),
            Route("/live.json", self._live),
            Route("/metrics", self._metrics),
            Route("/report", self._page_of_package),
            Route("/camera/{name}.jpg", self._snapshot),
        ]
        return Door(Starlette(routes=routes), token, host)

    async def _file(self, request: Request) -> Response:
        data, kind = self._files[request.url.path]
        return Response(data, media_type=kind, headers=_HEADERS)

    async def _healthz(self, _: Request) -> Response:
        judged = self._report.health.judge()
        return _json({"healthy": judged.alive, "why": judged.why}, 200 if judged.alive else 503)

    async def _readyz(self, _: Request) -> Response:
        judged = self._report.health.judge()
        return _json({"ready": judged.detecting, "why": judged.why}, 200 if judged.detecting else 503)

    async def _status(self, _: Request) -> Response:
        return _json(self._report.status())

    async def _live(self, _: Request) -> Response:
        return _json(self._report.live())

    async def _metrics(self, _: Request) -> Response:
        return Response(
            exposition(self._report), media_type="text/plain; version=0.0.4; charset=utf-8", headers=_HEADERS
        )

    async def _page_of_package(self, _: Request) -> Response:
        """The build's own report: every candidate, and why this one was chosen."""
        try:
            data = (self._package() / "report.html").read_bytes()
        except OSError:
            return Response("this package has no report\n", 404, _HEADERS, "text/plain")
        return Response(data, media_type="text/html", headers={**_HEADERS, "Content-Security-Policy": _REPORT_POLICY})

    async def _snapshot(self, request: Request) -> Response:
        """The newest snapshot; with ?after=N one that is newer than the Nth, waited for a little."""
        name, after = request.path_params["name"], request.query_params.get("after", "")
        if name not in {camera.name for camera in self._report.health.cameras}:
            return Response("no such camera\n", 404, _HEADERS, "text/plain")
        number = int(after) if after.isdecimal() and len(after) < 16 else 0
        until = time.monotonic() + SNAPSHOT_SECONDS
        while (snapshot := self._report.snapshots.look(name)) is None or snapshot.number <= number:
            if time.monotonic() > until:
                return Response(status_code=204, headers=_HEADERS)
            await asyncio.sleep(SNAPSHOT_PAUSE)
        age = (time.monotonic_ns() - snapshot.time_ns) / 1e6
        said = {"X-Snapshot": str(snapshot.number), "X-Age-Ms": f"{age:.0f}", "X-Detections": str(snapshot.found)}
        return Response(snapshot.jpeg, media_type="image/jpeg", headers={**_HEADERS, **said})


def _json(said: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(said), status, _HEADERS, "application/json")


class _Protocol(H11Protocol):
    """One connection: closed where there are too many, or where its request does not come."""

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= MOST_CONNECTIONS:
            transport.abort()
            return
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.connections:
            super().connection_lost(exc)


class _Listener(socket.socket):
    """Lets in so many a second. asyncio takes ENOBUFS as a sign to accept none for a second."""

    pace = Pace(ACCEPTED_A_SECOND)

    def accept(self) -> tuple[socket.socket, Any]:
        if self.pace.wait(0.0) is None:
            raise OSError(errno.ENOBUFS, "more visitors than are let in")
        return super().accept()


class Web:
    """The server, from when it is made until `close`. Raises ConfigError where the port cannot be had."""

    def __init__(self, said: settings.Web, report: Report, package: Callable[[], Path]) -> None:
        token = secret(said.token_file, "service.web.token_file", SHORTEST_TOKEN) if said.token_file else None
        self._socket = _listen(said.host, said.port)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            Pages(report, package).app(token, said.host),
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=15,
            h11_max_incomplete_event_size=16 << 10,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()
        log.info("web: http://%s:%d%s", said.host, self.port, "" if token else ", for this machine only")

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        asyncio.run(self._server.serve([self._socket]))

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(1.5)
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = _Listener(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(MOST_CONNECTIONS)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        remedy = "choose another service.web.port" if error.errno == errno.EADDRINUSE else "check service.web.host"
        raise ConfigError(f"service.web: cannot listen on {host}:{port}: {error.strerror or error}: {remedy}") from None
    listener.setblocking(False)
    return listener
