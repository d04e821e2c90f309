"""Live images of a camera over HTTP: single JPEGs that are never older than requested, and Motion JPEG."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from edgesparse.files import read_regular
from edgesparse.redaction import redact_text
from edgesparse.service.report import Report
from edgesparse.service.snapshots import Snapshot
from edgesparse.service.web.answers import HEADERS, as_json, as_text
from edgesparse.service.web.connections import STREAMS

MAX_AGE_MS = 1000
"""Maximum age of an image in milliseconds, if the request does not say."""
WAIT_SECONDS, LONGEST_WAIT = 1.5, 5.0
PAUSE = 0.03
MAX_STREAMS = 16
"""Most Motion JPEG streams at once: each holds a connection for as long as somebody watches."""
MOST_EXAMPLE_BYTES = 8 << 20
BOUNDARY = "edgesparse"


class CameraImages:
    """The responses below /camera. All viewers of a camera share its snapshots; none is kept for a slow viewer."""

    def __init__(self, report: Report) -> None:
        self._report, self._streams = report, 0

    def routes(self) -> list[Route]:
        return [
            Route("/camera/{name}.jpg", self._image),
            Route("/camera/{name}/drift/{number:int}.jpg", self._example),
            Route(f"/camera/{{name}}{STREAMS}", self._stream),
        ]

    def _has(self, name: str) -> bool:
        return any(camera.name == name for camera in self._report.health.cameras)

    async def _image(self, request: Request) -> Response:
        """Return the newest image, at most `max_age_ms` old; with ?after=N, wait a moment for one after the Nth, and
        return 204 if none comes.
        """
        name = request.path_params["name"]
        after, max_age = _number(request, "after", 0), _number(request, "max_age_ms", MAX_AGE_MS)
        if not self._has(name):
            return as_text("no such camera", 404)
        if after is None or max_age is None:
            return as_text("after and max_age_ms: needed a whole number", 400)
        until = time.monotonic() + min(max(WAIT_SECONDS, max_age / 1000), LONGEST_WAIT)
        while True:
            snapshot = self._report.snapshots.view(name)
            if snapshot is not None and snapshot.number > after and _age_ms(snapshot) <= max_age:
                break
            if time.monotonic() > until and "after" in request.query_params:
                return Response(status_code=204, headers=HEADERS)
            if time.monotonic() > until:
                answer = as_json({"why": self._why(name, snapshot, max_age)}, 503)
                answer.headers["Retry-After"] = "1"
                return answer
            await asyncio.sleep(PAUSE)
        headers = {
            "X-Snapshot": str(snapshot.number),
            "X-Age-Ms": f"{_age_ms(snapshot):.0f}",
            "X-Detections": str(snapshot.detections),
        }
        return Response(snapshot.jpeg, media_type="image/jpeg", headers={**HEADERS, **headers})

    async def _example(self, request: Request) -> Response:
        """Return an example of the camera's drift."""
        name, number, monitors = request.path_params["name"], request.path_params["number"], self._report.monitors
        drift = monitors.drift if monitors is not None else None
        path = drift.example(name, number) if drift is not None else None
        if path is None:
            return as_text("no such example", 404)
        try:
            return Response(read_regular(path, MOST_EXAMPLE_BYTES), media_type="image/jpeg", headers=HEADERS)
        except (OSError, ValueError):
            return as_text("the example cannot be read", 404)

    def _why(self, name: str, snapshot: Snapshot | None, max_age: int) -> str:
        """Return why there is no image."""
        if self._report.snapshots.paused:
            return "memory is short: no images are encoded"
        camera = next((camera for camera in self._report.health.cameras if camera.name == name), None)
        if camera is not None and camera.state != "live":
            return redact_text(f"the camera is {camera.state}{f': {camera.why}' if camera.why else ''}")
        newest = f"the newest is {_age_ms(snapshot):.0f} ms old" if snapshot else "there is none yet"
        return f"no new image of at most {max_age} ms: {newest}"

    async def _stream(self, request: Request) -> Response:
        """Return each new image as a part of an endless multipart response (RFC 2046), as IP cameras do."""
        name = request.path_params["name"]
        if not self._has(name):
            return as_text("no such camera", 404)
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        if request.method == "HEAD":
            return Response(media_type=kind, headers=HEADERS)
        if self._streams >= MAX_STREAMS:
            return as_text(f"{MAX_STREAMS} streams are being watched already", 503)
        return StreamingResponse(self._parts(name), media_type=kind, headers=HEADERS)

    async def _parts(self, name: str) -> AsyncIterator[bytes]:
        """Yield parts until the camera is removed. A slow reader gets fewer images, never older ones."""
        self._streams += 1
        number = 0
        try:
            while self._has(name):
                snapshot = self._report.snapshots.view(name)
                if snapshot is None or snapshot.number == number or _age_ms(snapshot) > MAX_AGE_MS:
                    await asyncio.sleep(PAUSE)
                    continue
                number = snapshot.number
                length = len(snapshot.jpeg)
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
                yield head.encode() + snapshot.jpeg + b"\r\n"
        finally:
            self._streams -= 1


def _age_ms(snapshot: Snapshot) -> float:
    return (time.monotonic_ns() - snapshot.time_ns) / 1e6


def _number(request: Request, key: str, default: int) -> int | None:
    """A query parameter that is a whole number of reasonable length; None for anything else."""
    text = request.query_params.get(key)
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
