"""Timing of candidates beside each other, so that what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgesparse.backends import Runner
from edgesparse.progress import Progress, quiet

ROUNDS = 5
"""The least, however short the time."""
BURST = 0.02
"""Seconds of one candidate in a round: long against the switch from one to the next, short against clock drift."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run of an engine, and `count`, how many were timed.

    `p10` and `p90` are of single runs. `spread` is how far the rounds' own medians lie apart (10 to 90 %): what the
    median may differ by when it is measured again.
    """

    median_ms: float
    p10: float
    p90: float
    spread: float
    count: int

    def __str__(self) -> str:
        return f"{self.median_ms:.3f} ms (p10 {self.p10:.3f}, p90 {self.p90:.3f}, {self.count} runs)"


def interleaved(runners: Mapping[str, Runner], seconds: float, progress: Progress = quiet) -> dict[str, Timing]:
    """Time each runner's engine alone for about `seconds`, in rounds in which every one has its turn.

    Each is warmed up before, and the first run of each turn, which finds the caches full of another's data, does not
    count. Every runner has its buffers bound. Raises BuildError when one fails.
    """
    for runner in runners.values():
        _warm_up(runner, min(0.5, seconds / 4))
    rounds: dict[str, list[list[float]]] = {name: [] for name in runners}
    begun, done = time.perf_counter(), 0
    while done < ROUNDS or time.perf_counter() - begun < seconds * len(runners):
        progress("timing", done, 0)
        for name, runner in runners.items():
            rounds[name].append(_burst(runner, min(BURST, seconds)))
        done += 1
    return {name: summary(times) for name, times in rounds.items()}


def equal(a: Timing, b: Timing) -> bool:
    """Whether two were too close to each other to say which is faster: closer than the wider spread of the two."""
    return abs(a.median_ms - b.median_ms) <= max(a.spread, b.spread)


def summary(rounds: list[list[float]]) -> Timing:
    """The Timing of milliseconds, a list a round."""
    single = np.concatenate(rounds)
    p10, median, p90 = np.percentile(single, (10, 50, 90))
    low, high = np.percentile([np.median(turn) for turn in rounds], (10, 90))
    return Timing(float(median), float(p10), float(p90), float(high - low), len(single))


def _warm_up(runner: Runner, seconds: float) -> None:
    begun = time.perf_counter()
    runner.infer()
    while time.perf_counter() - begun < seconds:
        runner.latency()


def _burst(runner: Runner, seconds: float) -> list[float]:
    runner.latency()
    times, begun = [runner.latency(), runner.latency()], time.perf_counter()
    while time.perf_counter() - begun < seconds:
        times.append(runner.latency())
    return times
