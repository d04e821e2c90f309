"""Images of HTTP clients on their way through the frame loop's engine, and what they may cost.

Cameras come first (stream/requests.py). Clients get what is left: a bounded queue, a bounded share of the memory, and
two threads that decode and draw. Beyond that a request is refused with a Retry-After.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edgesparse.redaction import redact_text
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.images import Image
from edgesparse.service.report import Report
from edgesparse.service.web.answers import as_json
from edgesparse.stream.requests import Requests
from edgesparse.wording import printable, short

MAX_BODY = 32 << 20
"""Bytes of a request's body."""
MAX_MEMORY = 128 << 20
"""Bytes of all clients' bodies and decoded images together."""
BODY_SECONDS = 10.0
"""Seconds for a client to send a body."""
DEADLINE_MS, LONGEST_DEADLINE_MS = 2000, 30_000
"""Milliseconds within which a request is answered, unless it names others, and the most that it may name."""
RETRY_SECONDS, COOL_SECONDS = 1, 5
"""What Retry-After says while the engine is busy, and while the board exceeds a limit."""
THREADS = 2

Result = TypeVar("Result")


class Refusal(Exception):
    """Why a request is not answered, with its HTTP status, and after how many seconds to try again (0: never)."""

    def __init__(self, status: int, why: str, retry: int = 0) -> None:
        super().__init__(why)
        self.status, self.retry = status, retry

    def response(self) -> Response:
        """Return one line of JSON without credentials."""
        answer = as_json({"error": short(printable(redact_text(str(self))), 500)}, self.status)
        if self.retry:
            answer.headers["Retry-After"] = str(self.retry)
        return answer


class Memory:
    """What all requests hold together, at most MAX_MEMORY. Used from several threads."""

    def __init__(self) -> None:
        self.bytes, self._lock = 0, threading.Lock()

    def take(self, count: int) -> bool:
        """Take `count` bytes, which may be negative. Returns whether they are free."""
        with self._lock:
            if self.bytes + count > MAX_MEMORY:
                return False
            self.bytes += count
            return True


class Held:
    """The memory that one request holds, until `release`. Used from one thread at a time."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._bytes = memory, 0

    def take(self, count: int) -> None:
        """Take `count` more bytes. Raises Refusal if that is too much for one request, or others hold too many."""
        if self._bytes + count > MAX_MEMORY:
            text = f"{MAX_MEMORY / (1 << 20):.0f} MiB"
            raise Refusal(413, f"the request and its decoded images take more than {text}: send fewer or smaller ones")
        if not self._memory.take(count):
            raise Refusal(429, "the images of other clients fill the memory for them: try again", RETRY_SECONDS)
        self._bytes += count

    def release(self) -> None:
        self._memory.take(-self._bytes)
        self._bytes = 0


Respond = Callable[[Request, bytes, Held], Awaitable[Response]]


class Inference:
    """What /v1/detect and /v2 share. Used in the web server's thread."""

    def __init__(self, report: Report) -> None:
        self.report, self._memory = report, Memory()
        self._threads = ThreadPoolExecutor(THREADS, "decode")

    async def answer(self, request: Request, respond: Respond) -> Response:
        """Read the request's body and return the response of `respond`, or why it refuses."""
        held = Held(self._memory)
        try:
            self.check()
            body = await self._body(request, held)
            return await respond(request, body, held)
        except Refusal as refusal:
            refusals = self.report.refusals
            refusals[refusal.status] = refusals.get(refusal.status, 0) + 1
            return refusal.response()
        finally:
            held.release()

    def check(self) -> Requests:
        """Return the requests that wait. Raises Refusal if no image would be answered now."""
        governor, requests = self.report.governor, self.report.requests
        if requests is None:
            raise Refusal(503, "the engine is being loaded: try again", RETRY_SECONDS)
        if governor.share < 1:
            raise Refusal(503, f"the frame rate is reduced: {governor.why}", COOL_SECONDS)
        return requests

    async def _body(self, request: Request, held: Held) -> bytes:
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:16]) > MAX_BODY:
            raise _too_large()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "found a compressed body, needed Content-Encoding: identity")
        try:
            return await asyncio.wait_for(_read(request, held), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
        except ClientDisconnect:
            raise Refusal(400, "the client went away") from None

    async def aside(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Do `work` in another thread than the web server's."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def detect(self, images: Sequence[Image], deadline_ms: int) -> list[Detections]:
        """Return the detections in each image. Raises Refusal if the engine has none within `deadline_ms`."""
        requests = self.check()
        offered = requests.offer(images, time.monotonic_ns() + deadline_ms * 1_000_000)
        if offered is None:
            raise Refusal(429, f"{len(requests)} images wait for the engine already: try again", RETRY_SECONDS)
        results = asyncio.gather(*(asyncio.wrap_future(request.detections) for request in offered))
        try:
            return await asyncio.wait_for(results, deadline_ms / 1000)
        except asyncio.TimeoutError:
            why = self.report.health.judge().why or "cameras and other clients keep the engine busy"
            raise Refusal(503, f"no result within {deadline_ms} ms: {why}", RETRY_SECONDS) from None
        except Exception as error:  # an engine may raise anything
            raise Refusal(500, f"the inference failed: {type(error).__name__}: {error}") from None


async def _read(request: Request, held: Held) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BODY:
            raise _too_large()
        held.take(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def _too_large() -> Refusal:
    return Refusal(413, f"needed a body of at most {MAX_BODY >> 20} MiB: send smaller or fewer images")
