"""Interleaved timing: which runs count, and when two timings count as equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.backends import Runner
from edgesparse.builder.child.timing import ROUNDS, Timing, equal, interleaved, summarize
from edgesparse.errors import BuildError


class Scripted(Runner):
    """Appends its name to a list on each run; the first run of a turn takes 100 times as long."""

    inputs = outputs = ()

    def __init__(self, name: str, calls: list[str], milliseconds: float = 1.0, fail_at: int = -1) -> None:
        self.name, self.calls, self.milliseconds, self.fail_at = name, calls, milliseconds, fail_at

    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None: ...

    def infer(self) -> None:
        if len(self.calls) == self.fail_at:
            raise BuildError("failed as told")
        self.calls.append(self.name)

    def latency(self) -> float:
        self.infer()
        first_of_turn = len(self.calls) < 2 or self.calls[-2] != self.name
        return self.milliseconds * (100 if first_of_turn else 1)

    def close(self) -> None: ...


def test_each_has_a_turn_per_round_whose_first_run_does_not_count() -> None:
    calls: list[str] = []
    timings = interleaved({"a": Scripted("a", calls, 2.0), "b": Scripted("b", calls, 3.0)}, 0.0)
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert turns[-2 * ROUNDS :] == ["a", "b"] * ROUNDS
    assert (timings["a"].median_ms, timings["a"].p10, timings["a"].p90) == (2.0, 2.0, 2.0)
    assert timings["b"].median_ms == 3.0 and timings["a"].count == timings["b"].count == 2 * ROUNDS


def test_each_is_timed_for_the_whole_time() -> None:
    calls: list[str] = []
    timings = interleaved({name: Scripted(name, calls) for name in "abc"}, 0.05)
    assert min(timing.count for timing in timings.values()) > 2 * ROUNDS


def test_a_failure_is_raised() -> None:
    with pytest.raises(BuildError, match="as told"):
        interleaved({"a": Scripted("a", [], fail_at=7)}, 0.0)


@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=6), st.integers(2, 8))
def test_noise_within_rounds_is_no_spread(turn: list[float], rounds: int) -> None:
    timing = summarize([turn] * rounds)
    assert timing.spread == pytest.approx(0, abs=1e-9)
    assert timing.p10 <= timing.median_ms <= timing.p90 and timing.count == rounds * len(turn)
    assert timing.median_ms == pytest.approx(float(np.median(turn)))


def test_a_drifting_clock_is_spread() -> None:
    assert summarize([[1.0, 1.0], [1.1, 1.1], [1.2, 1.2]]).spread == pytest.approx(0.16)


@given(st.floats(1, 2), st.floats(1, 2), st.floats(0, 1), st.floats(0, 1))
def test_equal_is_closer_than_the_wider_spread(a: float, b: float, spread: float, other_spread: float) -> None:
    left, right = Timing(a, a, a, spread, 10), Timing(b, b, b, other_spread, 10)
    assert equal(left, right) == equal(right, left) == (abs(a - b) <= max(spread, other_spread))
    assert equal(left, left)
