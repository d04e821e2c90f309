"""When the next frame of a camera is expected, so that nothing else starts in the engine shortly before."""

from __future__ import annotations

from edgesparse.stream.frames import Frame

FAR = 1 << 62
"""No frame is expected."""
SMOOTHING = 0.2
"""Weight of the newest interval."""


class Arrivals:
    """The times of a camera's frames, on the monotonic clock."""

    def __init__(self) -> None:
        self._newest_ns = self._index = 0
        self._interval_ns = 0.0

    def add(self, frame: Frame) -> None:
        """Take the next frame; those that were dropped before it count, too."""
        if self._newest_ns and frame.index > self._index and frame.time_ns > self._newest_ns:
            interval = (frame.time_ns - self._newest_ns) / (frame.index - self._index)
            self._interval_ns += (interval - self._interval_ns) * (SMOOTHING if self._interval_ns else 1)
        self._newest_ns, self._index = frame.time_ns, frame.index

    def expected_ns(self, now_ns: int, earliest_ns: int = 0) -> int:
        """Return when the next frame is expected, not before `earliest_ns`; FAR if none is, or if it is late by half an
        interval: the camera may have stopped.
        """
        expected = max(self._newest_ns + round(self._interval_ns), earliest_ns)
        return expected if now_ns < expected + self._interval_ns / 2 else FAR
