"""The summary of a run: durations per stage, counts, and a printable table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse import device
from edgesparse.runtime.detector import STAGES
from edgesparse.stream.totals import Totals

ALL_STAGES = ("capture", *STAGES, "track", "sinks")
"""`track`: tracking, zones and lines; of what is done for all cameras of a batch together, a frame has its share."""
_KEPT = 1 << 16


class Latencies:
    """Durations in nanoseconds, the newest 65,536 per name, in memory that is allocated once."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.count = 0
        # Written to at once, so that the pages are mapped: zeros() would map them gradually over the first hour.
        self._rows = np.full((_KEPT, len(names)), 0, np.int64)

    def row(self) -> NDArray[np.int64]:
        """Return the row to write the next frame's durations into."""
        row: NDArray[np.int64] = self._rows[self.count % _KEPT]
        self.count += 1
        return row

    def percentiles(self) -> dict[str, Percentiles]:
        rows = self._rows[: min(self.count, _KEPT)]
        if not len(rows):
            return {}
        p50, p90, p99 = np.percentile(rows, (50, 90, 99), axis=0) / 1e6
        return {
            name: Percentiles(*(round(float(p[i]), 3) for p in (p50, p90, p99))) for i, name in enumerate(self.names)
        }


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class CameraCounts:
    """One camera's part in a run."""

    name: str
    frames: int
    dropped: int
    reopened: int
    counted: Totals = field(default_factory=dict)
    """What was counted at its lines and in its zones; empty if it has none, or without tracking."""

    def __str__(self) -> str:
        return f"{self.name:<12}{self.frames} frames, {self.dropped} dropped, {self.reopened} reopened"

    def rows(self) -> Iterator[str]:
        """Yield a line of text per line and zone."""
        for name, line in self.counted.get("lines", {}).items():
            into, out = line["in"], line["out"]
            yield f"{self.name}, line {name}: {into['total']} in{_of(into)}, {out['total']} out{_of(out)}"
        for name, zone in self.counted.get("zones", {}).items():
            entered, left, seconds = zone["entered"], zone["left"]["total"], zone["seconds"]["total"]
            mean = f", {seconds / left:.1f} s on average" if left else ""
            yield f"{self.name}, zone {name}: {entered['total']} entered{_of(entered)}, {left} left{mean}"


def _of(part: Mapping[str, Any]) -> str:
    classes = ", ".join(f"{count} {name}" for name, count in part["classes"].items())
    return f" ({classes})" if classes else ""


@dataclass
class Summary:
    """The result of a run. `latency`: milliseconds per stage; `age` is the time from a live camera's capture to the
    detections."""

    frames: int = 0
    detections: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    dropped: int = 0
    reopened: int = 0
    peak_memory_mb: float = 0.0
    latency: dict[str, Percentiles] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    cameras: dict[str, CameraCounts] = field(default_factory=dict)
    ended: str = ""
    """Why it ended: `end of source`, `interrupted`, `limit`, `stopped`, or `closed` by a sink."""
    notice: str = ""
    """The detector's notice, for example that its fallback ran."""
    invalid_boxes: dict[str, int] = field(default_factory=dict)
    """Model outputs that were dropped because they are not valid boxes: how many, by fault."""

    def __str__(self) -> str:
        rows = [f"{name:<12}{p.p50:9.2f}{p.p90:9.2f}{p.p99:9.2f}" for name, p in self.latency.items()]
        classes = ", ".join(f"{n} {name}" for name, n in sorted(self.classes.items(), key=lambda item: -item[1])[:8])
        return "\n".join(
            (
                f"{'milliseconds':<12}{'p50':>9}{'p90':>9}{'p99':>9}",
                *rows,
                *(str(counts) for counts in self.cameras.values() if len(self.cameras) > 1),
                *(row for counts in self.cameras.values() for row in counts.rows()),
                f"{self.frames} frames, {self.fps:.1f} per second, {self.dropped} dropped, {self.reopened} reopened, "
                f"peak memory {self.peak_memory_mb:.0f} MB; {self.ended}",
                f"{self.detections} detections{': ' if classes else ''}{classes}",
                *((self.notice,) if self.notice else ()),
                *(f"{count} outputs were dropped: {fault}" for fault, count in self.invalid_boxes.items()),
            )
        )


class Record:
    """The counts and durations of a run so far. Allocates nothing per frame."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.frames, self.seconds = 0, 0.0
        self._latencies, self._counts = Latencies((*ALL_STAGES, "total", "age")), Counter[str]()
        self._classes: Sequence[str] = ()
        self.name_classes(classes)

    def name_classes(self, classes: Sequence[str]) -> None:
        """Set the class names that class ids refer to from now on."""
        self._fold()
        self._classes, self._per_class = classes, np.zeros(len(classes), np.int64)

    def frame(self, class_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count a frame with these detections. Returns the row to write its durations into, in nanoseconds."""
        self.frames += 1
        np.add.at(self._per_class, class_id, 1)
        return self._latencies.row()

    def summary(self, cameras: Sequence[CameraCounts], live: bool, ended: str, notice: str) -> Summary:
        """Return the summary so far. `live`: whether any source is a camera; the rest as in Summary."""
        self._fold()
        latency = self._latencies.percentiles()
        if not live:
            latency.pop("age", None)
        return Summary(
            frames=self.frames,
            detections=self._counts.total(),
            seconds=round(self.seconds, 3),
            fps=round(self.frames / max(self.seconds, 1e-6), 2),
            dropped=sum(camera.dropped for camera in cameras),
            reopened=sum(camera.reopened for camera in cameras),
            peak_memory_mb=round(device.peak_memory() / 1e6, 1),
            latency=latency,
            classes=dict(self._counts),
            cameras={camera.name: camera for camera in cameras},
            ended=ended,
            notice=notice,
        )

    def _fold(self) -> None:
        for number, name in enumerate(self._classes):
            if self._per_class[number]:
                self._counts[name] += int(self._per_class[number])
                self._per_class[number] = 0
