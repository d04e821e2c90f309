"""Interleaved timing of candidates, so that a disturbance affects all of them equally."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgesparse.backends import Runner
from edgesparse.progress import Progress, quiet

ROUNDS = 5
"""Least number of rounds, however short the time."""
BURST = 0.02
"""Seconds per candidate and round: long compared with the switch between candidates, short compared with clock
drift."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds per run of an engine over `count` timed runs.

    `p10` and `p90` are percentiles of single runs. `spread` is the distance between the 10th and 90th percentile of the
    rounds' medians: how far the median may move if it is measured again.
    """

    median_ms: float
    p10: float
    p90: float
    spread: float
    count: int

    def __str__(self) -> str:
        return f"{self.median_ms:.3f} ms (p10 {self.p10:.3f}, p90 {self.p90:.3f}, {self.count} runs)"


def interleaved(runners: Mapping[str, Runner], seconds: float, progress: Progress = quiet) -> dict[str, Timing]:
    """Time each runner's engine alone for about `seconds`, in rounds that include every runner once. Runners are warmed
    up first. The first run of each turn, which starts with another engine's data in the caches, does not count. Every
    runner must have its buffers bound. Raises BuildError if one fails.
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
    return {name: summarize(times) for name, times in rounds.items()}


def equal(a: Timing, b: Timing) -> bool:
    """Whether two timings are too close to tell which is faster: closer than the wider of their spreads."""
    return abs(a.median_ms - b.median_ms) <= max(a.spread, b.spread)


def summarize(rounds: list[list[float]]) -> Timing:
    """Summarize milliseconds, one list per round."""
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
