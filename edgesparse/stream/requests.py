"""Images that come from no camera: they run between the frames of cameras, in the same engine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Image

MOST_WAITING = 32
"""Images that wait for the engine; more are refused."""


@dataclass(frozen=True)
class Request:
    """An image, BGR uint8 [H, W, 3], and its detections, once the engine has run.

    `deadline_ns`: on the monotonic clock; a request that still waits then is never run.
    """

    image: Image
    deadline_ns: int
    detections: Future[Detections] = field(default_factory=Future)


class Requests:
    """The waiting requests. `offer` is called from any thread, `take` in the loop's."""

    def __init__(self, awake: threading.Event, most: int = MOST_WAITING) -> None:
        """`awake` is set when there is something to take."""
        self._awake = awake
        self.answered = 0
        """Requests answered so far."""
        self._most, self._waiting = most, deque[Request]()
        self._offering = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, images: Sequence[Image], deadline_ns: int) -> list[Request] | None:
        """Queue all images, or none: None if there is no room for all of them."""
        requests = [Request(image, deadline_ns) for image in images]
        with self._offering:
            if len(self._waiting) + len(requests) > self._most:
                return None
            self._waiting.extend(requests)
        self._awake.set()
        return requests

    def take(self, most: int) -> list[Request]:
        """Return at most `most` requests, the oldest first, without those that nobody waits for anymore."""
        taken: list[Request] = []
        now = time.monotonic_ns()
        while len(taken) < most and self._waiting:
            request = self._waiting.popleft()
            if now < request.deadline_ns and request.detections.set_running_or_notify_cancel():
                taken.append(request)
        return taken

    def answer(self, requests: Sequence[Request], detections: Sequence[Detections]) -> None:
        """Return their detections to those who wait."""
        self.answered += len(requests)  # first: who has the answer finds it counted
        for request, each in zip(requests, detections, strict=True):
            request.detections.set_result(each)
