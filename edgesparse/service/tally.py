"""Counters and histograms of the frame loop, in preallocated arrays: a few microseconds per frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.counts import Counts
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import STAGES
from edgesparse.service.in_view import Viewed
from edgesparse.stream.summary import ALL_STAGES

BOUNDS_MS = (0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 350, 500, 1000, 2000, 5000)
COLUMNS = (*ALL_STAGES, "total", "age")
"""Columns in the row of durations that accompanies each frame."""
_KEPT = 4096
_BOUNDS_NS = np.array([bound * 1e6 for bound in BOUNDS_MS], np.int64)
_EACH = np.arange(len(COLUMNS))
_AGE = COLUMNS.index("age")
_DETECTOR = slice(COLUMNS.index(STAGES[0]), COLUMNS.index(STAGES[-1]) + 1)


@dataclass(frozen=True)
class Histogram:
    """`below`: frames that took at most each of BOUNDS_MS. `count`: all frames. `seconds`: their sum."""

    below: tuple[int, ...]
    count: int
    seconds: float


@dataclass(frozen=True)
class Recent:
    """The newest frames: time in the detector and age in nanoseconds, and number of the camera. Shape [frames] each."""

    latency: NDArray[np.int64]
    age: NDArray[np.int64]
    camera: NDArray[np.int64]


class _Counts:
    """What was counted of one camera."""

    def __init__(self, number: int, classes: int) -> None:
        self.number = number
        self.classes = np.zeros(classes, np.int64)
        """Detections per class."""
        self.bins = np.zeros((len(COLUMNS), len(BOUNDS_MS) + 1), np.int64)
        self.sums = np.zeros(len(COLUMNS), np.int64)

    def histogram(self, column: int) -> Histogram:
        return _histogram(self.bins[column], int(self.sums[column]))


class Tally:
    """Written by the frame loop's thread only; readers in other threads may miss the newest frame."""

    def __init__(self, classes: int) -> None:
        self.frames = 0
        self._classes, self._numbered = classes, 0
        self._cameras: dict[str, _Counts] = {}
        self.in_view = Viewed()
        self.counts: dict[str, Counts] = {}
        """What each camera with lines or zones has counted."""
        self._recent = np.full((_KEPT, 3), 0, np.int64)

    def add(self, camera: str, row: NDArray[np.int64], detections: Detections) -> None:
        counts = self._counts(camera)
        counts.bins[_EACH, np.searchsorted(_BOUNDS_NS, row)] += 1
        counts.sums += row
        classes = counts.classes
        # For a moment after a reload there may be more classes.
        classes += np.bincount(detections.class_id, minlength=len(classes))[: len(classes)]
        if detections.counts is not None:
            self.counts[camera] = detections.counts
        elif camera in self.counts:
            del self.counts[camera]
        self._recent[self.frames % _KEPT] = (row[_DETECTOR].sum(), row[_AGE], counts.number)
        self.frames += 1

    def _counts(self, camera: str) -> _Counts:
        counts = self._cameras.get(camera)
        if counts is None:
            counts = self._cameras[camera] = _Counts(self._numbered, self._classes)
            self._numbered += 1
        return counts

    def restart_classes(self, classes: int) -> None:
        """Restart the count per class, for another engine."""
        self._classes = classes
        for counts in list(self._cameras.values()):
            counts.classes = np.zeros(classes, np.int64)
        self._forget_counts(())

    def keep(self, cameras: Sequence[str]) -> None:
        """Forget all other cameras."""
        for name in set(self._cameras) - set(cameras):
            self._cameras.pop(name, None)
        self._forget_counts(cameras)

    def _forget_counts(self, cameras: Sequence[str]) -> None:
        """Forget what all other cameras see and have counted."""
        self.in_view.keep(cameras)
        for name in set(self.counts) - set(cameras):
            self.counts.pop(name, None)

    def counted(self, camera: str) -> int:
        """Return the number of detections of a camera, of all classes."""
        counts = self._cameras.get(camera)
        return int(counts.classes.sum()) if counts is not None else 0

    @property
    def total(self) -> int:
        """The number of detections, of all cameras and classes."""
        return sum(int(counts.classes.sum()) for counts in list(self._cameras.values()))

    def detections(self) -> dict[str, NDArray[np.int64]]:
        """Return the number of detections per class of each camera."""
        return {name: counts.classes for name, counts in list(self._cameras.items())}

    def stages(self) -> dict[tuple[str, ...], Histogram]:
        """Return a histogram per camera and column, of COLUMNS except age."""
        return {
            (name, column): counts.histogram(i)
            for name, counts in list(self._cameras.items())
            for i, column in enumerate(COLUMNS)
            if i != _AGE
        }

    def ages(self) -> dict[tuple[str, ...], Histogram]:
        """Return a histogram of frame age for each camera."""
        return {(name,): counts.histogram(_AGE) for name, counts in list(self._cameras.items())}

    def number(self, camera: str) -> int | None:
        """Return the number of a camera in `recent`; None before its first frame."""
        counts = self._cameras.get(camera)
        return None if counts is None else counts.number

    def recent(self, since: int = 0) -> Recent:
        """Return the frames after the first `since`, as far as they are still stored."""
        newest = self.frames
        rows = self._recent[np.arange(max(since, newest - _KEPT), newest) % _KEPT]
        return Recent(rows[:, 0], rows[:, 1], rows[:, 2])


def _histogram(counts: NDArray[np.int64], total_ns: int) -> Histogram:
    below = np.cumsum(counts)
    return Histogram(tuple(int(n) for n in below[:-1]), int(below[-1]), total_ns / 1e9)


def milliseconds(values: NDArray[np.int64], *percents: float) -> tuple[float, ...]:
    """Return percentiles, in milliseconds, of values in nanoseconds; an empty tuple if there are none."""
    if not len(values):
        return ()
    return tuple(round(float(value), 2) for value in np.percentile(values, percents) / 1e6)
