"""Batches on their way through a detector: while one is in the engine, the next is captured and the last is written."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from edgesparse.errors import EdgeSparseError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import Feed
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.sources.frame_buffers import allocate_pageable

log = logging.getLogger("edgesparse.stream")

Taken = Sequence[tuple[Feed, Frame]]


@dataclass
class Batch:
    """Frames that go through the engine together. `started` and `captured`: when the loop began to take them and had
    them, on the clock of `time.perf_counter_ns`."""

    taken: Taken
    started: int
    captured: int
    detections: Sequence[Detections] = ()
    """Of each frame, after they were collected."""
    detected_ns: int = 0
    """When that was, on the clock of `time.monotonic_ns`."""


class InFlight:
    """Submitted batches, and one that was collected but not delivered yet, in order: as many as the detector accepts
    and every source lends frames for, at most `depth`.

    New frames are taken only if it is not full, so frames that a source has lent stay valid until they are delivered.
    """

    def __init__(self, detector: Detector, feeds: Sequence[Feed], depth: int | None = None) -> None:
        self._detector, self._batches = detector, deque[Batch]()
        self._collected: Batch | None = None
        most = detector.depth if depth is None else min(depth, detector.depth)
        for feed in feeds:
            feed.source.lend(most, self._allocate)
        self._most = min([most, *(feed.source.lends for feed in feeds)])

    def _allocate(self, shape: tuple[int, ...]) -> Image:
        try:
            return self._detector.frame_buffer(shape)
        except EdgeSparseError as error:
            log.warning("frames are copied by the CPU: %s", error)
            return allocate_pageable(shape)

    def __len__(self) -> int:
        return len(self._batches) + (self._collected is not None)

    @property
    def full(self) -> bool:
        return len(self) >= self._most

    @property
    def frames(self) -> int:
        """Frames in all batches."""
        collected = () if self._collected is None else self._collected.taken
        return len(collected) + sum(len(batch.taken) for batch in self._batches)

    def submit(self, taken: Taken, started: int) -> None:
        """Submit new frames. Raises what the detector raises; the frames are lost then."""
        batch = Batch(taken, started, time.perf_counter_ns())
        self._detector.submit([frame.image for _, frame in taken])
        self._batches.append(batch)

    def collect(self) -> None:
        """Wait for the oldest batch. Raises what the detector raises; that batch is lost then, later ones are not."""
        batch = self._batches.popleft()
        batch.detections, batch.detected_ns = self._detector.collect(), time.monotonic_ns()
        self._collected = batch

    def collected(self) -> Batch | None:
        """Take the collected batch, to be delivered now: its frames become invalid when the next are taken."""
        batch, self._collected = self._collected, None
        return batch

    def drop(self) -> None:
        """Wait for all batches and discard them, so that the detector may be closed."""
        while self._batches:
            with suppress(EdgeSparseError, RuntimeError):
                self.collect()
        self._collected = None
