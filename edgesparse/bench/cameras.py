"""Simulates from measured run times how many cameras an engine can serve."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
FRAMES = 6_000
"""Approximate number of frames in a simulation."""


@dataclass(frozen=True)
class Demand:
    """What cameras require: their frame rate, and the most milliseconds from a frame's arrival to its result."""

    fps: float = 30.0
    max_age_ms: float = 100.0


def most_cameras(times: Seconds, batch: int, streams: int, demand: Demand, limit: int) -> int:
    """Return the most cameras, up to `limit`, that can be served if each run takes one of these `times`.

    The frames of all cameras are spread evenly over a frame period. A free stream takes up to `batch` waiting frames,
    the oldest first, and starts immediately. A camera's newer frame replaces one that is still waiting, which is then
    lost.
    """
    if limit < 1 or carries(times, batch, streams, demand, limit):
        return max(limit, 0)
    low, high = 0, limit - 1
    while low < high:
        middle = (low + high + 1) // 2
        if carries(times, batch, streams, demand, middle):
            low = middle
        else:
            high = middle - 1
    return low


def carries(times: Seconds, batch: int, streams: int, demand: Demand, count: int) -> bool:
    """Whether no frame of `count` cameras is lost and 99 % of the results arrive in time.

    Simulates 60 frames of each camera, or fewer if there are many. `count` must not exceed what the rate allows.
    """
    draw = np.random.default_rng(0).permutation(np.resize(times, max(len(times), 2000)))
    free = [0.0] * streams
    period, waiting, ages = 1 / demand.fps, deque[float](), list[float]()
    arrivals = (number * period / count for number in range(count * max(3, min(60, FRAMES // count))))
    arrived = next(arrivals, None)
    while arrived is not None or waiting:
        start = heapq.heappop(free)
        if not waiting and arrived is not None:
            start = max(start, arrived)
        while arrived is not None and arrived <= start:
            waiting.append(arrived)
            arrived = next(arrivals, None)
        if waiting[0] + period < start:
            return False  # its camera has since sent another frame
        end = start + float(draw[len(ages) % len(draw)])
        ages += [end - waiting.popleft() for _ in range(min(batch, len(waiting)))]
        heapq.heappush(free, end)
    return float(np.percentile(ages, 99)) <= demand.max_age_ms / 1e3
