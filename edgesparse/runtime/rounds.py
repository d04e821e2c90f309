"""Batches of any number of images on slots that hold a fixed number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from edgesparse.backends.frames import Frame, FrameBoxes, Ring
from edgesparse.errors import EdgeSparseError


class Rounds:
    """Splits batches into rounds of at most `size` images and starts each as soon as a slot is free, in order.

    `depth` batches may be in flight, as many as there are slots. For one thread at a time.
    """

    def __init__(self, ring: Ring, size: int) -> None:
        self._ring, self._size = ring, size
        self._waiting, self._left = deque[Sequence[Frame]](), deque[int]()
        self.depth = ring.depth

    @property
    def where(self) -> str:
        return self._ring.where

    @property
    def in_flight(self) -> int:
        """Number of batches that were submitted and not collected."""
        return len(self._left)

    def submit(self, images: Sequence[Frame]) -> None:
        """Start a batch. Raises RuntimeError if `depth` batches are in flight; a batch that raises is not started."""
        if len(self._left) == self.depth:
            raise RuntimeError(f"{self.depth} batches are in flight, as many as there are slots: collect() first")
        size = self._size
        started = not self._waiting and self._ring.in_flight < self.depth
        if started and len(images) <= size:
            self._ring.submit(images)
            self._left.append(1)
            return
        rounds = [images[i : i + size] for i in range(0, len(images), size)]
        if started:
            self._ring.submit(rounds[0])
        self._waiting.extend(rounds[started:])
        self._left.append(len(rounds))

    def collect(self) -> Iterable[tuple[list[FrameBoxes], list[int]]]:
        """Return the candidates of the oldest batch and the times of its slot, round by round; they are valid until the
        next round is requested. If one raises, the batch's other rounds are discarded. Raises RuntimeError if nothing
        is in flight."""
        if not self._left:
            raise RuntimeError("nothing is in flight: submit() first")
        rounds = self._left.popleft()
        if rounds == 1 and not self._waiting:
            return (self._ring.collect(),)
        return self._each(rounds)

    def _each(self, rounds: int) -> Iterator[tuple[list[FrameBoxes], list[int]]]:
        try:
            while rounds:
                if self._waiting:
                    self._start()
                rounds -= 1
                yield self._ring.collect()
            if self._waiting:
                with suppress(EdgeSparseError):  # raised again for the batch that it belongs to
                    self._start()
        finally:
            self._discard(rounds)

    def _start(self) -> None:
        while self._waiting and self._ring.in_flight < self.depth:
            self._ring.submit(self._waiting[0])
            self._waiting.popleft()

    def _discard(self, rounds: int) -> None:
        """Discard the oldest rounds, started or waiting."""
        for _ in range(rounds):
            if self._ring.in_flight:
                with suppress(EdgeSparseError):
                    self._ring.collect()
            else:
                self._waiting.popleft()

    def close(self) -> None:
        """Wait for the batches in flight and discard their results."""
        self._waiting.clear()
        self._left.clear()
        self._ring.close()
