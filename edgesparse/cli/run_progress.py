"""The progress of `run`: frames, rate, detections, age, and, for files, the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgesparse.cli.show import INTERVAL
from edgesparse.progress import duration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgesparse.runtime.detections import Detections
    from edgesparse.stream.cameras import CameraStatus
    from edgesparse.stream.frames import Frame
    from edgesparse.stream.sources.base import Source

    Show = Callable[["RunProgress"], None]

AGE = 7
"""Index of the frame's age in the row of durations."""


class RunProgress:
    """An Observer of the frame loop. `total`: frames to expect; None if unknown or endless."""

    def __init__(self, show: Show, clock: Callable[[], float] = time.monotonic) -> None:
        self.total: int | None = None
        self.live = False
        """Whether frames come from cameras, so that their age matters."""
        self.frames = self.detections = 0
        self._show, self._clock, self._age_ns = show, clock, 0
        self._begun = clock()
        self._away: list[str] = []

    def expect(self, sources: Sequence[Source], limit: int | None) -> None:
        """Take what is known before the first frame. `limit`: the most frames."""
        self.live = any(source.live for source in sources)
        totals = [source.total for source in sources]
        known = None if None in totals else sum(total or 0 for total in totals)
        self.total = min((total for total in (known, limit) if total is not None), default=None)

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> float:
        if not self.frames:
            self._begun = self._clock()
        self.frames += 1
        self.detections += len(detections)
        self._age_ns = int(row[AGE])
        return 0.0

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        self._away = [f"{camera.name} is {camera.state}" for camera in cameras if camera.state != "live"]
        self._show(self)

    @property
    def rate(self) -> float:
        """Frames per second since the first frame."""
        return (self.frames - 1) / max(self._clock() - self._begun, 1e-9) if self.frames > 1 else 0.0

    def __str__(self) -> str:
        of = f" of {self.total}" if self.total else ""
        parts = [f"{self.frames}{of} frames", f"{self.rate:.1f} per second", f"{self.detections} detections"]
        if self.live and self.frames:
            parts.append(f"{self._age_ns / 1e6:.0f} ms old")
        if self.total and self.rate:
            parts.append(f"{duration(max(0, self.total - self.frames) / self.rate)} left")
        return ", ".join((*parts, *self._away))


@contextmanager
def run_progress(shared: bool) -> Iterator[RunProgress]:
    """Show the progress on standard error: in one line on a terminal, otherwise as a line every ten seconds.

    `shared`: whether results go to the same terminal, where a progress line would disturb them."""
    if not sys.stderr.isatty() or shared:
        yield RunProgress(_Lines())
        return
    from rich.console import Console
    from rich.status import Status

    with Status("opening", console=Console(stderr=True)) as status:
        yield RunProgress(lambda progress: status.update(str(progress)))


class _Lines:
    """Prints a line every INTERVAL seconds."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, progress: RunProgress) -> None:
        if time.monotonic() - self._printed >= INTERVAL:
            self._printed = time.monotonic()
            print(progress, file=sys.stderr, flush=True)
