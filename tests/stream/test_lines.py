"""Lines: each crossing counts once, in its direction, however an object trembles and however often it is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.stream.lines import Passage, PlacedLine

Way = Sequence[tuple[float, float]]
MARGIN = 4.0
DOWN = PlacedLine((0, 50), (100, 0))
"""From left to right across a frame of 100 x 100, so `in` is downwards."""
SHORT = PlacedLine((40, 50), (20, 0))

coordinates = st.floats(0, 100, allow_nan=False, width=32)
ways = st.lists(st.tuples(coordinates, coordinates), max_size=25)


def crossings(line: PlacedLine, way: Way, margin: float = MARGIN) -> Counter[str]:
    passage = Passage()
    places = [line.locate(x, y) for x, y in way]
    steps = [passage.step(before, now, margin) for before, now in zip(places[:1] + places[:-1], places, strict=True)]
    return Counter(step for step in steps if step is not None)


def net(line: PlacedLine, way: Way) -> int:
    counts = crossings(line, way)
    return counts["in"] - counts["out"]


def test_in_is_from_the_left_of_the_line_to_its_right() -> None:
    assert crossings(DOWN, [(50, 10), (50, 90)]) == {"in": 1}
    assert crossings(DOWN, [(50, 90), (50, 10)]) == {"out": 1}
    up = PlacedLine((50, 100), (0, -100))
    assert crossings(up, [(10, 50), (90, 50)]) == {"in": 1}, "a line drawn upwards has its right at the right"


def test_an_object_that_trembles_on_the_line_counts_once_or_not_at_all() -> None:
    trembling = [(50, 50 + offset) for offset in (-1, 2, -3, 3, 0, -2, 1, 0, 0, 3.9, -3.9)]
    assert crossings(DOWN, [(50, 10), *trembling, (50, 90)]) == {"in": 1}
    assert crossings(DOWN, [(50, 10), *trembling, (50, 10)]) == {}
    assert crossings(DOWN, trembling) == {}, "it never was clearly on a side"


def test_an_object_that_was_out_of_sight_is_counted_when_it_is_found_on_the_other_side() -> None:
    assert crossings(SHORT, [(45, 20), (55, 80)]) == {"in": 1}
    assert crossings(SHORT, [(5, 20), (5, 80)]) == {}, "it went past the end of the line"


def test_a_way_around_the_end_of_a_line_is_no_crossing_even_if_it_trembled_there() -> None:
    assert crossings(SHORT, [(50, 20), (50, 49), (50, 51), (50, 49), (90, 49), (90, 80)]) == {}
    assert crossings(SHORT, [(90, 20), (90, 51), (50, 51), (50, 49), (50, 51), (50, 80)]) == {}
    assert crossings(SHORT, [(50, 20), (50, 51), (90, 51), (90, 49), (50, 49), (50, 80)]) == {"in": 1}


@pytest.mark.parametrize(("end", "counted"), [(40, 1), (60, 1), (39.99, 0), (60.01, 0)])
def test_a_line_touched_at_its_end_is_crossed(end: float, counted: int) -> None:
    assert crossings(SHORT, [(end, 20), (end, 80)]).total() == counted
    assert crossings(SHORT, [(end, 20), (end, 50), (end, 80)]).total() == counted, "seen on the line itself"


def test_a_line_that_is_only_touched_is_not_crossed() -> None:
    assert crossings(SHORT, [(50, 20), (50, 50), (50, 20)]) == {}
    assert crossings(SHORT, [(40, 20), (40, 50), (60, 50), (60, 20)]) == {}


@settings(max_examples=200)
@given(ways)
def test_a_closed_way_has_net_count_0(way: Way) -> None:
    start = (50.0, 10.0)
    assert net(DOWN, [start, *way, start]) == 0


@settings(max_examples=200)
@given(ways)
def test_the_net_count_says_on_which_side_an_object_ends(way: Way) -> None:
    assert net(DOWN, [(50, 10), *way, (50, 90)]) == 1


@settings(max_examples=200)
@given(ways)
def test_the_way_back_counts_the_other_direction(way: Way) -> None:
    forth, back = crossings(SHORT, way), crossings(SHORT, way[::-1])
    assert (forth["in"], forth["out"]) == (back["out"], back["in"])


@settings(max_examples=200)
@given(ways)
def test_a_line_drawn_the_other_way_counts_the_other_direction(way: Way) -> None:
    first, second = crossings(SHORT, way), crossings(PlacedLine((60, 50), (-20, 0)), way)
    assert (first["in"], first["out"]) == (second["out"], second["in"])


@settings(max_examples=200)
@given(ways)
def test_steps_may_be_left_out_while_an_object_stays_clearly_on_its_side(way: Way) -> None:
    """As the counter does; both passages must count the same in the same step."""
    xs, ys = zip(*way, strict=True) if way else ((), ())
    sides = SHORT.sides(xs, ys, [MARGIN] * len(way))
    full, sparse = Passage(), Passage()
    for index, (x, y) in enumerate(way):
        before, now = SHORT.locate(*way[max(index - 1, 0)]), SHORT.locate(x, y)
        assert sides[index] == (abs(now[0]) >= MARGIN and (1 if now[0] > 0 else -1))
        counted = full.step(before, now, MARGIN)
        if index and sides[index] == sides[index - 1] != 0:
            assert counted is None
        else:
            assert sparse.step(before, now, MARGIN) == counted


@settings(max_examples=100)
@given(ways.filter(lambda way: len(way) > 1), st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_the_frame_rate_does_not_matter(corners: Way, rates: list[int]) -> None:
    """The same way, seen at its corners only, or in up to 20 further places along each of its parts."""

    def seen(rates: Sequence[int]) -> list[tuple[float, float]]:
        points = [corners[0]]
        for number, (start, end) in enumerate(pairwise(corners)):
            rate = rates[number % len(rates)]
            shares = [step / rate for step in range(1, rate)] + [1.0]
            (x, y), (to_x, to_y) = start, end
            points += [(x + (to_x - x) * share, y + (to_y - y) * share) for share in shares]
        return points

    assert crossings(DOWN, seen([1])) == crossings(DOWN, seen(rates))
