"""Timing beside each other: what is counted, and when two count as equal."""

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
    """Says its name into a list at each run; its latency is what a function of the number of runs says."""

    inputs = outputs = ()

    def __init__(self, name: str, said: list[str], milliseconds: float = 1.0, fail_at: int = -1) -> None:
        self.name, self.said, self.milliseconds, self.fail_at = name, said, milliseconds, fail_at

    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None: ...

    def infer(self) -> None:
        if len(self.said) == self.fail_at:
            raise BuildError("failed as told")
        self.said.append(self.name)

    def latency(self) -> float:
        self.infer()
        first_of_turn = len(self.said) < 2 or self.said[-2] != self.name
        return self.milliseconds * (100 if first_of_turn else 1)

    def close(self) -> None: ...


def test_every_round_gives_each_its_turn_and_its_first_run_does_not_count() -> None:
    said: list[str] = []
    found = interleaved({"a": Scripted("a", said, 2.0), "b": Scripted("b", said, 3.0)}, 0.0)
    turns = [name for i, name in enumerate(said) if i == 0 or said[i - 1] != name]
    assert turns[-2 * ROUNDS :] == ["a", "b"] * ROUNDS
    assert (found["a"].median_ms, found["a"].p10, found["a"].p90) == (2.0, 2.0, 2.0)
    assert found["b"].median_ms == 3.0 and found["a"].count == found["b"].count == 2 * ROUNDS


def test_time_is_given_to_each() -> None:
    said: list[str] = []
    found = interleaved({name: Scripted(name, said) for name in "abc"}, 0.05)
    assert min(timing.count for timing in found.values()) > 2 * ROUNDS


def test_what_fails_is_said() -> None:
    with pytest.raises(BuildError, match="as told"):
        interleaved({"a": Scripted("a", [], fail_at=7)}, 0.0)


@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=6), st.integers(2, 8))
def test_noise_within_a_round_is_no_spread_between_rounds(turn: list[float], rounds: int) -> None:
    found = summarize([turn] * rounds)
    assert found.spread == pytest.approx(0, abs=1e-9)
    assert found.p10 <= found.median_ms <= found.p90 and found.count == rounds * len(turn)
    assert found.median_ms == pytest.approx(float(np.median(turn)))


def test_a_clock_that_drifts_is_spread() -> None:
    assert summarize([[1.0, 1.0], [1.1, 1.1], [1.2, 1.2]]).spread == pytest.approx(0.16)


@given(st.floats(1, 2), st.floats(1, 2), st.floats(0, 1), st.floats(0, 1))
def test_equal_is_closer_than_the_wider_spread(a: float, b: float, one: float, other: float) -> None:
    left, right = Timing(a, a, a, one, 10), Timing(b, b, b, other, 10)
    assert equal(left, right) == equal(right, left) == (abs(a - b) <= max(one, other))
    assert equal(left, left)
