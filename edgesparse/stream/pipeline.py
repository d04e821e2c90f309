"""The frame loop: newest frame -> detector -> sinks, timed a stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgesparse import device
from edgesparse.errors import SourceError
from edgesparse.runtime.detector import STAGES, Detector
from edgesparse.stream.frames import Sink, Source
from edgesparse.stream.interrupts import Interrupts

ALL_STAGES = ("capture", *STAGES, "sinks")
_KEPT = 1 << 16


class Latencies:
    """Durations in nanoseconds, the newest 65,536 of each name, in memory that is allocated once."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.count = 0
        # Written to at once, so that the pages are there: zeros() would take them one by one over the first hour.
        self._rows = np.full((_KEPT, len(names)), 0, np.int64)

    def row(self) -> NDArray[np.int64]:
        """Where the next frame's durations are to be written."""
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


@dataclass
class Summary:
    """What a run came to. `latency`: milliseconds a stage; `age` is from a live camera's capture to its detections."""

    frames: int = 0
    detections: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    dropped: int = 0
    reopened: int = 0
    peak_memory_mb: float = 0.0
    latency: dict[str, Percentiles] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    ended: str = ""
    """Why: `end of source`, `interrupted`, `limit`, or `closed` by a sink."""
    notice: str = ""
    """The detector's, as that its fallback ran."""

    def __str__(self) -> str:
        rows = [f"{name:<12}{p.p50:9.2f}{p.p90:9.2f}{p.p99:9.2f}" for name, p in self.latency.items()]
        found = ", ".join(f"{n} {name}" for name, n in sorted(self.classes.items(), key=lambda item: -item[1])[:8])
        return "\n".join(
            (
                f"{'milliseconds':<12}{'p50':>9}{'p90':>9}{'p99':>9}",
                *rows,
                f"{self.frames} frames, {self.fps:.1f} a second, {self.dropped} dropped, {self.reopened} reopened, "
                f"peak memory {self.peak_memory_mb:.0f} MB; {self.ended}",
                f"{self.detections} detections{': ' if found else ''}{found}",
                *((self.notice,) if self.notice else ()),
            )
        )


def run(source: Source, detector: Detector, sinks: Sequence[Sink] = (), *, limit: int | None = None) -> Summary:
    """Feed frames through the detector into the sinks until the source ends, `limit` frames are done, a sink wants to
    stop, or Ctrl-C, which waits for the frame that is on its way. Allocates nothing of a frame's size after the first
    frames. Raises what source and sinks raise."""
    loop = _Loop(source, detector, sinks)
    started = time.monotonic()
    try:
        with Interrupts() as interrupts:
            ended = loop.run(limit, interrupts)
    except KeyboardInterrupt:
        ended = "interrupted"
    seconds = time.monotonic() - started
    if loop.frames == 0 and ended == "end of source":
        raise SourceError(f"{source.name} gave no frame: it is empty or damaged")
    counts = loop.counts
    return Summary(
        frames=loop.frames,
        detections=int(counts.sum()),
        seconds=round(seconds, 3),
        fps=round(loop.frames / seconds, 2),
        dropped=source.dropped,
        reopened=source.reopened,
        peak_memory_mb=round(device.peak_memory() / 1e6, 1),
        latency=loop.latencies.percentiles(),
        classes={detector.spec.classes[i]: int(counts[i]) for i in np.flatnonzero(counts)},
        ended=ended,
        notice=detector.notice,
    )


class _Loop:
    def __init__(self, source: Source, detector: Detector, sinks: Sequence[Sink]) -> None:
        self._source, self._detector, self._sinks = source, detector, sinks
        self.frames = 0
        self.latencies = Latencies((*ALL_STAGES, "total", *(("age",) if source.live else ())))
        self.counts = np.zeros(len(detector.spec.classes), np.int64)

    def run(self, limit: int | None, interrupts: Interrupts) -> str:
        source, sinks = self._source, self._sinks
        while limit is None or self.frames < limit:
            start = time.perf_counter_ns()
            frame = source.read()
            if frame is None:
                return "end of source"
            interrupts.begin()
            captured = time.perf_counter_ns()
            detections = self._detector(frame.image)
            age = time.monotonic_ns() - frame.time_ns
            detected = time.perf_counter_ns()
            for sink in sinks:
                sink.write(frame, detections)
            end = time.perf_counter_ns()
            self.frames += 1
            np.add.at(self.counts, detections.class_id, 1)
            row = self.latencies.row()
            row[0], row[1:5], row[5], row[6] = captured - start, self._detector.times, end - detected, end - start
            if source.live:
                row[7] = age
            interrupts.end()
            if any(sink.wants_stop for sink in sinks):
                return "closed"
        return "limit"
