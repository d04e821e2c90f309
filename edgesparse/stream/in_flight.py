"""Batches in flight through a detector: while one is in the engine, the next is captured and the last one written."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from edgesparse.errors import EdgeSparseError, StreamError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import Feed
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.requests import Request
from edgesparse.stream.sources.frame_buffers import allocate_pageable

log = logging.getLogger("edgesparse.stream")

STARVED_NS = 250_000_000
"""Longest time without a gap for requests between the frames of cameras."""

Taken = Sequence[tuple[Feed, Frame]]


@dataclass
class Batch:
    """Frames of cameras, and the images of requests behind them, that go through the engine together. `started` and
    `captured`: when the loop began and finished taking them, on the clock of `time.perf_counter_ns`.
    """

    taken: Taken
    started: int
    captured: int
    requests: Sequence[Request] = ()
    detections: Sequence[Detections] = ()
    """Detections per frame and request, once the batch was collected."""
    detected_ns: int = 0
    """When it was collected, on the clock of `time.monotonic_ns`."""


class InFlight:
    """Submitted batches, at most `depth` and as many as the detector accepts, and one that was collected but not
    delivered yet, in order.

    Sources lend frames for one batch more than can be submitted: the next batch is submitted before the collected one
    is delivered, so that the GPU always has one to run beside another. New frames are taken only if it is not full, so
    that lent frames stay valid until they are delivered.
    """

    def __init__(self, detector: Detector, feeds: Sequence[Feed], depth: int | None = None) -> None:
        self._detector, self._batches = detector, deque[Batch]()
        self._feeds = feeds
        self._requests_ns = 0
        """When requests were submitted last."""
        self._lasts_ns = 0
        """How long a batch of requests alone takes, averaged over the last ones."""
        self._collected: Batch | None = None
        self._submitted = detector.depth if depth is None else min(depth, detector.depth)
        """Most batches that can be submitted."""
        most = self._submitted + (self._submitted > 1)
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
        return len(self._batches) >= self._submitted or len(self) >= self._most

    @property
    def frames(self) -> int:
        """Number of frames in all batches."""
        collected = () if self._collected is None else self._collected.taken
        return len(collected) + sum(len(batch.taken) for batch in self._batches)

    def room(self, taken: Taken) -> int:
        """Return how many requests may be submitted with these new frames.

        Requests run between frames: if nothing is in flight and their batch is likely to end before the next frame
        arrives. If cameras have left no such gap for STARVED_NS, they fill the places that frames leave in a batch or,
        if no frame waits, run alone. Without cameras there is always room.
        """
        free = self._detector.batch - len(taken)
        if not self._feeds:
            return free
        if self and not taken:
            return 0
        now_ns = time.monotonic_ns()
        starved = now_ns - self._requests_ns >= STARVED_NS
        return free if starved or (not taken and self._fits(now_ns)) else 0

    def _fits(self, now_ns: int) -> bool:
        """Whether a batch of requests alone ends before a frame of a camera is expected."""
        return all(feed.expected_ns(now_ns) >= now_ns + self._lasts_ns for feed in self._feeds)

    def submit(self, taken: Taken, started: int, requests: Sequence[Request] = ()) -> None:
        """Submit new frames and requests. Raises what the detector raises; the frames are then lost.

        If a batch with requests fails, it is submitted again with a blank image in their place. So only a failure of
        the engine raises: no request costs a frame, or counts as one.
        """
        batch = Batch(taken, started, time.perf_counter_ns(), requests)
        images, tiles = [frame.image for _, frame in taken], [feed.tiles for feed, _ in taken]
        if requests:
            self._requests_ns = time.monotonic_ns()
        try:
            all_tiles = [*tiles, *[self._detector.tiles] * len(requests)]
            self._detector.submit([*images, *(request.image for request in requests)], tiles=all_tiles)
        except Exception as error:  # an engine may raise anything
            if not requests:
                raise
            _fail(requests, error)
            batch.requests = ()
            blank = np.zeros((*self._detector.spec.input.size, 3), np.uint8)
            self._detector.submit(images or [blank], tiles=tiles)
        self._batches.append(batch)

    def collect(self) -> None:
        """Wait for the oldest batch. Raises what the detector raises; that batch is then lost, later ones are not."""
        batch = self._batches.popleft()
        try:
            results, batch.detected_ns = self._detector.collect(), time.monotonic_ns()
        except Exception as error:
            _fail(batch.requests, error)
            raise
        if not batch.taken:
            self._lasts_ns += (batch.detected_ns - self._requests_ns - self._lasts_ns) // 4
        batch.detections = results[: len(batch.taken) + len(batch.requests)]  # without a blank image
        self._collected = batch

    def collected(self) -> Batch | None:
        """Take the collected batch, to be delivered now: its frames become invalid once new frames are taken."""
        batch, self._collected = self._collected, None
        return batch

    def drop(self) -> None:
        """Wait for all batches and discard them, so that the detector can be closed."""
        self._discard()
        while self._batches:
            with suppress(EdgeSparseError, RuntimeError):
                self.collect()
            self._discard()

    def _discard(self) -> None:
        if (batch := self.collected()) is not None:
            _fail(batch.requests, StreamError("the engine was exchanged"))


def _fail(requests: Sequence[Request], error: BaseException) -> None:
    for request in requests:
        request.detections.set_exception(error)
