"""Rungs of a memory budget, and measured use."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.backends import backend
from edgesparse.builder.child.memory import MB, Budget, Meter, Spent, budget, rungs, words

sizes = st.integers(32 * MB, 10**12)


@given(sizes)
def test_each_rung_allows_no_more_than_the_previous(size: int) -> None:
    steps = rungs(size)
    for before, after in pairwise(steps):
        assert (after.workspace or 0) <= (before.workspace or 0) <= size
        assert (after.tactic_memory or 0) <= (before.tactic_memory or 0) <= size
        assert after != before and words(after) != words(before)
    assert not any(step.libraries for step in steps)
    assert (steps[-1].level, steps[-1].aux_streams, steps[-1].edge_masks) == (1, 0, False)


def test_without_a_known_size_the_first_rung_limits_nothing() -> None:
    first, second, *_ = rungs(None)
    assert first.workspace is None and words(first) == "nothing limited" and second.workspace is not None


def test_the_budget_is_the_recipes_or_the_free_memory() -> None:
    null = backend("null")
    assert budget(null, 5 * MB) == Budget(5 * MB, "host", True)
    free = budget(null, None)
    assert free.size is not None and free.size > 0 and not free.explicit
    assert str(Budget(5 * MB, "host", True)) == "a budget of 5 MB (build.memory)"
    assert str(Budget(None, "gpu")) == "a budget of unknown size (what was free, less a reserve)"


spent = st.builds(Spent, st.integers(0, 100), st.none() | st.integers(0, 100))


@given(spent, spent)
def test_the_union_of_peaks_is_the_larger(a: Spent, b: Spent) -> None:
    both = a | b
    assert both == b | a and both.host == max(a.host, b.host)
    assert (both.device is None) == (a.device is None and b.device is None)
    assert both.under("host") == both.host and both.under("shared") >= both.under("gpu")


def test_a_process_is_measured_while_it_lives() -> None:
    meter = Meter("host", os.getpid())
    meter.sample()
    assert meter.spent.host > 10 * MB and meter.spent.device is None
    nobody = Meter("host", 2**22 + 1)
    nobody.sample()
    assert nobody.spent == Spent()


def test_with_shared_memory_the_drop_of_free_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([900 * MB, 500 * MB, 700 * MB])
    monkeypatch.setattr("edgesparse.device.available_memory", lambda: next(free))
    meter = Meter("shared", 2**22 + 1)
    meter.sample()
    meter.sample()
    assert meter.spent == Spent(0, 400 * MB) and meter.spent.under("shared") == 400 * MB
