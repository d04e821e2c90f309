"""What is known of a camera with one engine: its baseline, the newest hours, its alarm; kept on disk."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from edgesparse.files import read_regular, replace_text
from edgesparse.service.monitor.distribution import BINS, QUANTITIES
from edgesparse.service.monitor.drift_settings import MOST_HOURS
from edgesparse.values import Section

log = logging.getLogger("edgesparse.service")

HOUR = 3600.0
MOST_BYTES = 4 << 20
KEPT = 4
"""Files per camera: a rollback, or the fallback engine, finds its own baseline again."""
MOST_FILES = 1024
_Count = Annotated[int, Field(ge=0, le=1 << 53)]
_Bins = Annotated[tuple[_Count, ...], Field(min_length=BINS, max_length=BINS)]


class StoredPeriod(Section):
    """`bins`: per quantity of QUANTITIES, the number of values in each bin."""

    seconds: Annotated[float, Field(ge=0, le=1e10)]
    detections: _Count
    bins: Annotated[tuple[_Bins, ...], Field(min_length=len(QUANTITIES), max_length=len(QUANTITIES))]


class StoredBaseline(Section):
    """The file of one camera with one engine."""

    baseline: StoredPeriod
    hours: Annotated[tuple[StoredPeriod, ...], Field(max_length=MOST_HOURS)]
    current: StoredPeriod
    alarm: Annotated[str, Field(max_length=64)]
    alarm_time: Annotated[str, Field(max_length=64)]


class Period:
    """What was observed in some time. `seconds`: of observation. `detections`: in all frames. `bins`: counts of the
    sampled frames, int64 [quantities, BINS]."""

    def __init__(self, stored: StoredPeriod | None = None) -> None:
        self.seconds = stored.seconds if stored else 0.0
        self.detections = stored.detections if stored else 0
        empty = np.zeros((len(QUANTITIES), BINS), np.int64)
        self.bins: NDArray[np.int64] = np.array(stored.bins, np.int64) if stored else empty

    def add(self, other: Period) -> None:
        self.seconds += other.seconds
        self.detections += other.detections
        self.bins += other.bins

    @property
    def per_hour(self) -> float | None:
        """Detections per hour; None before anything was observed."""
        return self.detections * HOUR / self.seconds if self.seconds else None

    def stored(self) -> StoredPeriod:
        bins = tuple(tuple(row) for row in self.bins.tolist())
        return StoredPeriod(seconds=self.seconds, detections=self.detections, bins=bins)


class Baseline:
    """Hours of observation: the first `length` are the baseline, the newest `window` are compared with it. Time during
    which a camera delivers nothing does not count, and no clock is needed."""

    def __init__(self, path: Path, length: int, window: int) -> None:
        self._path, self.length, self.window = path, length, window
        self.alarm = self.alarm_time = ""
        """The id of the alarm that has not ended, and when it began."""
        self.baseline, self.current = Period(), Period()
        self._hours: deque[Period] = deque(maxlen=window)
        stored = _read(path)
        if stored is not None:
            self.baseline, self.current = Period(stored.baseline), Period(stored.current)
            self._hours.extend(map(Period, stored.hours))
            self.alarm, self.alarm_time = stored.alarm, stored.alarm_time

    @property
    def complete(self) -> bool:
        """Whether the baseline is as long as it should be."""
        return self.baseline.seconds >= self.length * HOUR

    @property
    def full(self) -> bool:
        """Whether there are enough newer hours to compare."""
        return self.complete and len(self._hours) == self.window

    def newest(self) -> Period:
        """Return the sum of the newest hours."""
        total = Period()
        for hour in self._hours:
            total.add(hour)
        return total

    def add(self, seconds: float, detections: int, bins: NDArray[np.int64]) -> bool:
        """Take a sampled frame, and the seconds and detections since the last. Returns whether it ended an hour."""
        self.current.seconds += seconds
        self.current.detections += detections
        self.current.bins += bins
        if self.current.seconds < HOUR:
            return False
        if self.complete:
            self._hours.append(self.current)
        else:
            self.baseline.add(self.current)
        self.current = Period()
        return True

    def save(self) -> None:
        """Write all to disk. Raises OSError."""
        values = StoredBaseline(
            baseline=self.baseline.stored(),
            hours=tuple(hour.stored() for hour in self._hours),
            current=self.current.stored(),
            alarm=self.alarm,
            alarm_time=self.alarm_time,
        )
        replace_text(self._path, json.dumps(values.model_dump(), separators=(",", ":")), mode=0o600, synced=True)


def _read(path: Path) -> StoredBaseline | None:
    """Return the contents of a file; None if there is none, or if it is damaged: it is then renamed, and the baseline
    starts again."""
    try:
        return StoredBaseline.model_validate_json(read_regular(path, MOST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        fault = "not what the service writes" if isinstance(error, ValidationError) else str(error)
        log.warning("drift: %s cannot be used (%s): it is renamed, and a new baseline starts", path, fault)
        path.replace(path.with_suffix(".damaged"))
        return None


def prune(folder: Path, camera: str, current: Path) -> None:
    """Remove the oldest files beyond KEPT of a camera and MOST_FILES in all, but not `current`."""
    for pattern, most in ((f"{camera}.*.json", KEPT), ("*.json", MOST_FILES)):
        others: Sequence[Path] = [path for path in folder.glob(pattern) if path != current]
        for path in sorted(others, key=lambda path: path.stat().st_mtime_ns)[: max(0, len(others) + 1 - most)]:
            path.unlink(missing_ok=True)
            path.with_suffix(".damaged").unlink(missing_ok=True)
