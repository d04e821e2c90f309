"""Scenes in the detector's input format, drawn in the background by all cores. Does not need PyTorch."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.demo.scene import still

SIZE, PAD, MOST, CHUNK = 320, 114, 32, 32
TRAIN, TEST, VALIDATION = 0, 1_000_000, 2_000_000
"""First seed of each set; the detector is never trained on scenes that it is scored on."""


@dataclass(frozen=True)
class Stills:
    """`images` uint8 [S, 3, SIZE, SIZE] RGB, letterboxed; `boxes` float32 [S, MOST, 4] xyxy in their pixels, and
    `classes` int64 [S, MOST], padded with -1."""

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


def empty(count: int) -> Stills:
    return Stills(
        np.full((count, 3, SIZE, SIZE), PAD, np.uint8),
        np.zeros((count, MOST, 4), np.float32),
        np.full((count, MOST), -1, np.int64),
    )


def letterbox(frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
    """Letterbox BGR [H, W, 3] to RGB [3, SIZE, SIZE] on gray. Returns it with the frame's ratio and (left, top)."""
    height, width = frame.shape[:2]
    ratio = min(SIZE / height, SIZE / width)
    resized = cv2.resize(frame, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_LINEAR)
    left, top = (SIZE - resized.shape[1]) // 2, (SIZE - resized.shape[0]) // 2
    image = np.full((SIZE, SIZE, 3), PAD, np.uint8)
    image[top : top + resized.shape[0], left : left + resized.shape[1]] = resized[..., ::-1]
    return np.ascontiguousarray(image.transpose(2, 0, 1)), ratio, (left, top)


def draw(first: int, count: int) -> Stills:
    """Draw the scenes of `count` seeds from `first` on."""
    cv2.setNumThreads(1)
    stills = empty(count)
    for i in range(count):
        frame, labels = still(first + i)
        stills.images[i], ratio, (left, top) = letterbox(frame)
        n = min(len(labels.class_id), MOST)
        stills.boxes[i, :n] = labels.xyxy[:n] * ratio + np.array([left, top, left, top], np.float32)
        stills.classes[i, :n] = labels.class_id[:n]
    return stills


class Painters:
    """A pool of processes, one fewer than cores, that draw chunks of scenes in the requested order."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there are already as many processes as cores
        count = max(1, (os.cpu_count() or 1) - 1)
        self._pool = ProcessPoolExecutor(count, context)

    def __enter__(self) -> Painters:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def order(self, first: int, count: int) -> Order:
        """Start drawing `count` scenes from the seed `first` on."""
        starts = range(first, first + count, CHUNK)
        return Order(deque(self._pool.submit(draw, at, min(CHUNK, first + count - at)) for at in starts))


@dataclass
class Order:
    """Chunks of scenes being drawn."""

    pending: deque[Future[Stills]]

    def ready(self) -> Iterator[Stills]:
        """Return the finished chunks, without waiting."""
        while self.pending and self.pending[0].done():
            yield self.pending.popleft().result()

    def next(self) -> Stills:
        """Wait for the next chunk and return it."""
        return self.pending.popleft().result()

    def cancel(self) -> None:
        for future in self.pending:
            future.cancel()
        self.pending.clear()
