"""Counters and histograms of the frame loop, in preallocated arrays: a few microseconds per frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.counts import Counts
from edgesparse.runtime.detections import Detections
from edgesparse.service.in_view import Viewed
from edgesparse.stream.pipeline import ALL_STAGES

BOUNDS_MS = (0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 350, 500, 1000, 2000, 5000)
COLUMNS = (*ALL_STAGES, "total", "age")
"""Columns in the row of durations that accompanies each frame."""
_KEPT = 4096
_BOUNDS_NS = np.array([bound * 1e6 for bound in BOUNDS_MS], np.int64)
_EACH = np.arange(len(COLUMNS))
_AGE = COLUMNS.index("age")
_DETECTOR = slice(1, len(ALL_STAGES) - 1)


@dataclass(frozen=True)
class Histogram:
    """`below`: frames that took at most each of BOUNDS_MS. `count`: all frames. `seconds`: their sum."""

    below: tuple[int, ...]
    count: int
    seconds: float


@dataclass(frozen=True)
class Recent:
    """The newest frames: time in the detector and age in nanoseconds, and camera index. Shape [frames] each."""

    latency: NDArray[np.int64]
    age: NDArray[np.int64]
    camera: NDArray[np.int64]


class Tally:
    """Written by the frame loop's thread only; readers in other threads may miss the newest frame."""

    def __init__(self, classes: int) -> None:
        self.frames = 0
        self._classes = classes
        self._detections: list[NDArray[np.int64]] = []
        """Each camera's number of detections per class."""
        self.in_view = Viewed()
        self.counts: dict[str, Counts] = {}
        """What each camera with lines or zones has counted."""
        self.cameras: list[str] = []
        self._stages = np.zeros((len(COLUMNS), len(BOUNDS_MS) + 1), np.int64)
        self._stage_sums = np.zeros(len(COLUMNS), np.int64)
        self._ages: list[NDArray[np.int64]] = []
        self._age_sums: list[int] = []
        self._recent = np.full((_KEPT, 3), 0, np.int64)

    def add(self, camera: str, row: NDArray[np.int64], detections: Detections) -> None:
        number = self._number(camera)
        bins = np.searchsorted(_BOUNDS_NS, row)
        self._stages[_EACH, bins] += 1
        self._stage_sums += row
        age = int(row[_AGE])
        self._ages[number][bins[_AGE]] += 1
        self._age_sums[number] += age
        counts = self._detections[number]
        known = detections.class_id < len(counts)  # for a moment after a reload there may be more classes
        np.add.at(counts, detections.class_id[known], 1)
        if detections.counts is not None:
            self.counts[camera] = detections.counts
        elif camera in self.counts:
            del self.counts[camera]
        self._recent[self.frames % _KEPT] = (row[_DETECTOR].sum(), age, number)
        self.frames += 1

    def _number(self, camera: str) -> int:
        try:
            return self.cameras.index(camera)
        except ValueError:
            self._ages.append(np.zeros(len(BOUNDS_MS) + 1, np.int64))
            self._age_sums.append(0)
            self._detections.append(np.zeros(self._classes, np.int64))
            self.cameras.append(camera)
            return len(self.cameras) - 1

    def restart_classes(self, classes: int) -> None:
        """Restart the count per class, for another engine."""
        self._classes = classes
        self._detections = [np.zeros(classes, np.int64) for _ in self._detections]
        self.keep(())

    def keep(self, cameras: Sequence[str]) -> None:
        """Forget what all other cameras see and have counted."""
        self.in_view.keep(cameras)
        for name in set(self.counts) - set(cameras):
            self.counts.pop(name, None)

    @property
    def total(self) -> int:
        """The number of detections, of all cameras and classes."""
        return sum(int(counts.sum()) for counts in self._detections)

    def detections(self) -> dict[str, NDArray[np.int64]]:
        """Return the number of detections per class of each camera."""
        return dict(zip(self.cameras, self._detections, strict=False))

    def stages(self) -> dict[str, Histogram]:
        """Return a histogram of each of COLUMNS except age."""
        return {
            name: _histogram(self._stages[i], int(self._stage_sums[i])) for i, name in enumerate(COLUMNS) if i != _AGE
        }

    def ages(self) -> dict[str, Histogram]:
        """Return a histogram of frame age for each camera."""
        rows = zip(self.cameras, self._ages, self._age_sums, strict=False)
        return {name: _histogram(counts, total) for name, counts, total in rows}

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
