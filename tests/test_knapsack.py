"""The knapsack: against every combination on small cases, and never over the budget."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from edgesparse.knapsack import BUCKETS, Choice, pick, total

WHOLE = st.lists(st.lists(st.builds(Choice, st.integers(0, 9), st.integers(0, 9)), max_size=3), max_size=5)
FLOATS = st.floats(0, 1e3, allow_subnormal=False)
ANY = st.lists(st.lists(st.builds(Choice, FLOATS, FLOATS), max_size=3), max_size=5)


def best(items: list[list[Choice]], budget: float) -> float:
    """The most that any combination within the budget gains."""
    combinations = product(*([None, *range(len(choices))] for choices in items))
    totals = (total(items, list(picks)) for picks in combinations)
    return max(each.gain for each in totals if each.cost <= budget)


@given(WHOLE, st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_whole_costs_are_solved_like_every_combination_tried(items: list[list[Choice]], budget: int) -> None:
    solution = total(items, pick(items, budget))
    assert solution.gain == best(items, budget) and solution.cost <= budget


@given(ANY, st.floats(0, 1e3))
def test_other_costs_lose_no_more_than_the_rounding_and_never_pass_the_budget(
    items: list[list[Choice]], budget: float
) -> None:
    solution = total(items, pick(items, budget))
    assert solution.cost <= budget * (1 + 1e-9)
    assert solution.gain >= best(items, budget * (1 - len(items) / BUCKETS)) * (1 - 1e-9)


def test_it_beats_the_best_ratio_where_that_wastes_the_budget() -> None:
    items = [[Choice(6, 5)], [Choice(10, 10)]]
    assert pick(items, 10) == [None, 0]
    assert pick([[Choice(1, 1), Choice(3, 4)], [Choice(2, 2)]], 4) in ([0, 0], [1, None])
    assert pick([], 1) == [] and pick([[Choice(1, 0)], []], 0) == [0, None]
