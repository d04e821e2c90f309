"""The search for the most changes within a drop: never over the budget, whatever the drops are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.sparsity.search import Search

DROPS = st.lists(st.floats(0, 10) | st.just(float("inf")), min_size=1, max_size=40)


@given(DROPS, st.floats(0, 10), st.integers(0, 40))
def test_the_drop_is_never_more_than_allowed_and_few_are_tried(drops: list[float], allowed: float, first: int) -> None:
    tried = []

    def trial(count: int) -> int:
        tried.append(count)
        return count

    search = Search(np.arange(1.0, len(drops) + 1), 0.5, allowed)
    count = search.run(0, 0, trial, lambda count: drops[count - 1] if count else 0.0, min(first, len(drops)) or None)
    assert count == 0 or drops[count - 1] <= allowed
    assert len(tried) == len(set(tried)) <= len(drops)


@given(DROPS, st.floats(0, 10), st.integers(0, 40))
def test_of_drops_that_rise_the_most_changes_are_found(drops: list[float], allowed: float, first: int) -> None:
    drops = sorted(drops)
    search = Search(np.arange(1.0, len(drops) + 1), 0.5, allowed)
    of = lambda count: drops[count - 1] if count else 0.0  # noqa: E731
    assert search.run(0, 0, int, of, min(first, len(drops)) or None) == sum(drop <= allowed for drop in drops)
