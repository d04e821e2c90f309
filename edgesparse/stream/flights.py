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
from edgesparse.stream.sources.slots import pageable

log = logging.getLogger("edgesparse.stream")

Taken = Sequence[tuple[Feed, Frame]]


@dataclass
class Batch:
    """Frames, and when one began to take them and had them, on `time.perf_counter_ns`'s clock."""

    taken: Taken
    begun: int
    captured: int
    found: Sequence[Detections] = ()
    """In each frame, once they were collected."""
    found_ns: int = 0
    """When that was, on `time.monotonic_ns`'s clock."""


class Flights:
    """Batches that were submitted, and one that was collected but not handed on, in order: as many as the detector
    takes and every source lends frames for, `depth` at the most.

    Frames are taken only where it is not full: so what a source has lent is left alone until it was handed on.
    """

    def __init__(self, detector: Detector, feeds: Sequence[Feed], depth: int | None = None) -> None:
        self._detector, self._batches = detector, deque[Batch]()
        self._collected: Batch | None = None
        wanted = detector.depth if depth is None else min(depth, detector.depth)
        for feed in feeds:
            feed.source.lend(wanted, self._memory)
        self._most = min([wanted, *(feed.source.lends for feed in feeds)])

    def _memory(self, shape: tuple[int, ...]) -> Image:
        try:
            return self._detector.frame_buffer(shape)
        except EdgeSparseError as error:
            log.warning("frames are copied by the CPU: %s", error)
            return pageable(shape)

    def __len__(self) -> int:
        return len(self._batches) + (self._collected is not None)

    @property
    def full(self) -> bool:
        return len(self) >= self._most

    @property
    def frames(self) -> int:
        collected = () if self._collected is None else self._collected.taken
        return len(collected) + sum(len(batch.taken) for batch in self._batches)

    def submit(self, taken: Taken, begun: int) -> None:
        """Begin with new frames. Raises as the detector does; they are lost then."""
        batch = Batch(taken, begun, time.perf_counter_ns())
        self._detector.submit([frame.image for _, frame in taken])
        self._batches.append(batch)

    def collect(self) -> None:
        """Wait for the oldest. Raises as the detector does; that batch is lost then, those behind it are not."""
        batch = self._batches.popleft()
        batch.found, batch.found_ns = self._detector.collect(), time.monotonic_ns()
        self._collected = batch

    def collected(self) -> Batch | None:
        """The batch that is to be handed on now: its frames are free again when the next one is taken."""
        batch, self._collected = self._collected, None
        return batch

    def drop(self) -> None:
        """Wait for all, and want nothing of them; the detector may be closed."""
        while self._batches:
            with suppress(EdgeSparseError, RuntimeError):
                self.collect()
        self._collected = None
