"""The capture thread of a live source."""

from __future__ import annotations

import atexit
import time
import weakref
from collections.abc import Callable

from edgesparse.stream.frames import Image
from edgesparse.stream.sources.capture import OPEN_SECONDS, Capture
from edgesparse.supervised import Supervised

PAUSE_FIRST, PAUSE_LONGEST = 0.1, 0.5
"""Seconds between attempts to open, doubled each time."""
REFUSED_PAUSE_FIRST, REFUSED_PAUSE_LONGEST = 60.0, 600.0
"""The same if the camera rejects the login: it may lock the user out after a few wrong passwords."""
FIRST_FRAME_LIMIT = 5.0
EXIT_SECONDS = OPEN_SECONDS + 1.0


class CaptureWorker(Supervised):
    """A capture thread that runs `capture_frames` until `leave`. A driver may keep it from noticing that for a long
    time. `isolated`: whether its captures run in other processes. Raises BackendUnavailable if it cannot be started.
    """

    def __init__(
        self,
        name: str,
        capture_frames: Callable[[CaptureWorker], None],
        capture: Capture | None,
        spare: Image | None,
        isolated: bool,
    ) -> None:
        self.capture, self.isolated = capture, isolated
        self.any_frame = self.refused = False
        self.spare = spare
        """The image to write into."""
        self.opened_ns = 0
        self.deadline = time.monotonic() + FIRST_FRAME_LIMIT
        """When the current wait has taken too long, on the monotonic clock."""
        self._open_pause, self._refused_pause = PAUSE_FIRST, REFUSED_PAUSE_FIRST
        # Restarted as quickly as the camera is opened again.
        super().__init__(f"capture {name}", lambda: capture_frames(self), (PAUSE_FIRST, PAUSE_LONGEST))
        _workers.add(self)

    def next_pause(self) -> float:
        """Return the seconds before the next attempt to open."""
        if self.any_frame:
            self._open_pause, self._refused_pause = PAUSE_FIRST, REFUSED_PAUSE_FIRST
        if self.refused:
            pause, self._refused_pause = self._refused_pause, min(2 * self._refused_pause, REFUSED_PAUSE_LONGEST)
            return pause
        pause, self._open_pause = self._open_pause, min(2 * self._open_pause, PAUSE_LONGEST)
        return pause

    def release(self) -> None:
        if self.capture is not None:
            self.capture.release()
            self.capture = None


_workers: weakref.WeakSet[CaptureWorker] = weakref.WeakSet()


@atexit.register
def _wait_for_workers() -> None:
    """If Python exits while a thread is inside OpenCV, the process aborts: give each thread as long as its driver may
    take. Threads whose OpenCV runs in another process only wait for that process.
    """
    until = time.monotonic() + EXIT_SECONDS
    workers = [worker for worker in _workers if worker.is_alive() and not worker.isolated]
    for worker in workers:
        worker.leave()
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
