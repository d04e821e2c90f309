"""Adding, pausing and removing cameras over HTTP.

The door has refused who lacks the token and what pages of other sites send.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from edgesparse.errors import EdgeSparseError
from edgesparse.redaction import redact
from edgesparse.service.live_cameras import CameraRefused, LiveCameras
from edgesparse.service.web.answers import as_json, as_text

MAX_BODY = 64 << 10
BODY_SECONDS = 3.0
"""Seconds for a client to send the body of a request."""
CHANGE_SECONDS = 20.0
"""Seconds after which a response no longer waits for the frame loop, which may hang."""


class CameraChangeRoutes:
    """The responses to POST /cameras and POST /camera/NAME/pause, /resume and /remove."""

    def __init__(self, cameras: LiveCameras) -> None:
        self._cameras = cameras

    def routes(self) -> list[Route]:
        return [
            Route("/cameras", self._add, methods=["POST"]),
            Route("/camera/{name}/{verb:str}", self._change, methods=["POST"]),
        ]

    async def _add(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return as_json({"why": "needed the Content-Type application/json"}, 415)
        try:
            values = json.loads(await _body(request))
        except (ValueError, RecursionError):
            return as_json({"why": 'needed a JSON object, as {"name": "door", "source": "rtsp://..."}'}, 400)
        except (ClientDisconnect, asyncio.TimeoutError):
            return as_text("the body did not arrive in time", 408)
        if not isinstance(values, dict):
            return as_json({"why": "needed a JSON object with name and source"}, 400)

        def add() -> dict[str, Any]:
            camera = self._cameras.add(values, _who(request))
            return {"camera": camera.name, "source": redact(camera.source)}

        return await self._answer(add, 201)

    async def _change(self, request: Request) -> Response:
        name, verb, who = request.path_params["name"], request.path_params["verb"], _who(request)
        if verb not in ("pause", "resume", "remove"):
            return as_text("needed pause, resume or remove", 404)

        def change() -> dict[str, Any]:
            if verb == "remove":
                self._cameras.remove(name, who)
                return {"camera": name, "removed": True}
            self._cameras.pause(name, verb == "pause", who)
            return {"camera": name, "paused": verb == "pause"}

        return await self._answer(change, 200)

    async def _answer(self, change: Callable[[], dict[str, Any]], status: int) -> Response:
        """Make a change outside the server's thread, since it waits for the frame loop."""
        try:
            return as_json(await asyncio.wait_for(asyncio.to_thread(change), CHANGE_SECONDS), status)
        except CameraRefused as error:
            return as_json({"why": str(error)}, error.status)
        except EdgeSparseError as error:
            return as_json({"why": str(error)}, 400)
        except asyncio.TimeoutError:
            return as_json({"why": f"not done after {CHANGE_SECONDS:.0f} s: the service is busy, see its log"}, 503)


async def _body(request: Request) -> bytes:
    """Return the body. Raises ValueError if it is larger than MAX_BODY, and TimeoutError."""

    async def read() -> bytes:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise ValueError(f"more than {MAX_BODY} bytes")
        return body

    return await asyncio.wait_for(read(), BODY_SECONDS)


def _who(request: Request) -> str:
    return request.client.host if request.client is not None else "a local program"
