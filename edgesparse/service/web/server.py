"""The web page, metrics and health over HTTP: who may see them, and how much of the machine they may use.

The server is one thread. Connections and requests per second are limited for all clients together;
the excess waits, so that clients cost the frame loop little, whatever they request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from edgesparse.service.live_cameras import LiveCameras
from edgesparse.service.report import Report
from edgesparse.service.settings import WebSettings
from edgesparse.service.web.answers import HEADERS, as_json, as_text
from edgesparse.service.web.camera_changes import CameraChangeRoutes
from edgesparse.service.web.camera_images import CameraImages
from edgesparse.service.web.connections import IDLE_SECONDS, MAX_CONNECTIONS, Protocol, listen
from edgesparse.service.web.detect import inference_routes
from edgesparse.service.web.door import Door
from edgesparse.service.web.metrics import exposition
from edgesparse.supervised import Supervised

log = logging.getLogger("edgesparse.service")

MAX_HEADER = 16 << 10
PIECE = 64 << 10
"""Bytes of a long response that are sent at once."""

_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/changes.js": ("changes.js", "text/javascript"),
    "/drift.js": ("drift.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Pages:
    """The responses for all paths."""

    def __init__(self, report: Report, package: Callable[[], Path], cameras: LiveCameras) -> None:
        self._report, self._package, self._cameras = report, package, cameras
        folder = resources.files("edgesparse.service.web") / "page"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _PAGE.items()}

    def app(self, token: str | None, hosts: Sequence[str], doors: Sequence[Route]) -> ASGIApp:
        routes = [
            *(Route(path, self._file) for path in self._files),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/status.json", self._status),
            Route("/live.json", self._live),
            Route("/metrics", self._metrics),
            Route("/report", self._page_of_package),
            *CameraImages(self._report).routes(),
            *doors,
            *CameraChangeRoutes(self._cameras).routes(),
        ]
        return Door(Starlette(routes=routes), token, hosts)

    async def _file(self, request: Request) -> Response:
        data, kind = self._files[request.url.path]
        return Response(data, media_type=kind, headers=HEADERS)

    async def _healthz(self, _: Request) -> Response:
        judgement = self._report.health.judge()
        return as_json({"healthy": judgement.alive, "why": judgement.why}, 200 if judgement.alive else 503)

    async def _readyz(self, _: Request) -> Response:
        judgement = self._report.health.judge()
        return as_json({"ready": judgement.detecting, "why": judgement.why}, 200 if judgement.detecting else 503)

    async def _status(self, _: Request) -> Response:
        return as_json(self._report.status())

    async def _live(self, _: Request) -> Response:
        return as_json({**self._report.live(), "may_add": list(self._cameras.allowed)})

    async def _metrics(self, _: Request) -> Response:
        return Response(
            exposition(self._report), media_type="text/plain; version=0.0.4; charset=utf-8", headers=HEADERS
        )

    async def _page_of_package(self, _: Request) -> Response:
        """Return the build's report: every candidate, and why this one was chosen.

        It is sent in pieces, so that a client that does not read holds only one piece in memory.
        """
        path = self._package() / "report.html"
        if not path.is_file():
            return as_text("this package has no report", 404)
        headers = {**HEADERS, "Content-Security-Policy": _REPORT_POLICY}
        return StreamingResponse(_pieces(path), media_type="text/html", headers=headers)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(PIECE):
            yield data


class Web:
    """The server, running until `close`. Raises ConfigError if the port is not available."""

    def __init__(
        self,
        settings: WebSettings,
        report: Report,
        package: Callable[[], Path],
        cameras: LiveCameras | None = None,
    ) -> None:
        token = settings.token()
        self._socket = listen(settings.host, settings.port)
        self.port = int(self._socket.getsockname()[1])
        self.doors = inference_routes(report) if settings.inference else []
        self._config = uvicorn.Config(
            Pages(report, package, cameras or LiveCameras()).app(token, (settings.host, *settings.hosts), self.doors),
            http=Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=MAX_CONNECTIONS,  # a longer queue would serve clients that gave up long ago
            timeout_keep_alive=int(IDLE_SECONDS),
            h11_max_incomplete_event_size=MAX_HEADER,
        )
        self._settings, self._server, self._closed = settings, uvicorn.Server(self._config), False
        self._thread = Supervised("web", self._run)
        log.info("web: http://%s:%d%s", settings.host, self.port, "" if token else ", for this machine only")

    def _run(self) -> None:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        if self._socket.fileno() < 0:  # a failed server has closed it
            self._socket = listen(self._settings.host, self._settings.port)
        self._server = uvicorn.Server(self._config)
        if not self._closed:
            asyncio.run(self._server.serve([self._socket]))

    def close(self) -> None:
        self._closed = True
        self._thread.leave()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(1.5)
        self._socket.close()
