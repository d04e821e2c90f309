"""Many cameras on one engine: a part of benchmarks/gpu_path.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_setup import HD, confident, image, net, opened
from edgesparse.runtime.detector import Detector

SETUPS = ((1, 1), (4, 1), (4, 4), (16, 1), (16, 4), (16, 16))
"""Number of cameras, batch of the engine."""


def cameras(work: Path, seconds: float = 2.0) -> dict[str, Any]:
    """1, 4 and 16 cameras at 1080p: at 30 frames per second, taking each camera's newest frame, and with a new frame
    always ready."""
    report: dict[str, Any] = {"offered_a_second_and_camera": 30}
    for count, batch in SETUPS:
        with opened(confident(net("small", work, batch))) as detector:
            rings = [[detector.frame_buffer(HD) for _ in range(2)] for _ in range(count)]
            for i, ring in enumerate(rings):
                for buffer in ring:
                    buffer[...] = image(i)
            for rate in (30.0, 0.0):
                Watched(detector, rings, rate).run(0.3)
                key = f"{count} cameras, batch {batch}, {'30 a second' if rate else 'as many as go'}"
                report[key] = Watched(detector, rings, rate).run(seconds)
    return report


class Watched:
    """Cameras that deliver frames at a fixed rate; at rate 0, a new frame is always ready."""

    def __init__(self, detector: Detector, rings: list[list[NDArray[np.uint8]]], rate: float) -> None:
        self._detector, self._rings, self._period = detector, rings, 1 / rate if rate else 0.0
        self._last, self._next = [-1] * len(rings), 0
        self._stamps: list[list[float]] = []
        self._ages: list[float] = []
        self.dropped = 0

    def run(self, seconds: float) -> dict[str, float]:
        detector, begun = self._detector, time.perf_counter()
        while (now := time.perf_counter()) - begun < seconds:
            fresh = self._fresh(now - begun)
            if fresh and detector.in_flight < detector.depth:
                detector.submit([self._rings[i][self._last[i] % 2] for i, _ in fresh])
                self._stamps.append([begun + stamp for _, stamp in fresh])
            elif detector.in_flight:
                self._collect()
        while detector.in_flight:
            self._collect()
        ages = np.percentile(self._ages, (50, 99)) * 1e3
        return {
            "frames_a_second": round(len(self._ages) / seconds, 1),
            "dropped": self.dropped,
            "age_ms_p50": round(float(ages[0]), 3),
            "age_ms_p99": round(float(ages[1]), 3),
        }

    def _fresh(self, now: float) -> list[tuple[int, float]]:
        """Up to one batch of cameras with a frame not taken yet, round-robin, each with its capture time."""
        samples: list[tuple[int, float]] = []
        if self._detector.in_flight == self._detector.depth:
            return samples
        for step in range(len(self._rings)):
            i = (self._next + step) % len(self._rings)
            phase = self._period * i / len(self._rings)
            index = int((now - phase) // self._period) if self._period else self._last[i] + 1
            if index > self._last[i] and (index >= 0):
                self.dropped += max(0, index - self._last[i] - 1)
                self._last[i] = index
                samples.append((i, phase + index * self._period if self._period else now))
            if len(samples) == self._detector.batch:
                break
        if samples:
            self._next = (samples[-1][0] + 1) % len(self._rings)
        return samples

    def _collect(self) -> None:
        self._detector.collect()
        now = time.perf_counter()
        self._ages += [now - stamp for stamp in self._stamps.pop(0)]
