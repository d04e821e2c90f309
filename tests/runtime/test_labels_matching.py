"""Matching a detector's classes to categories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.errors import ConfigError
from edgesparse.runtime.labels.base import Category
from edgesparse.runtime.labels.matching import guesses, match

PARTS = [Category(3, "bolt"), Category(7, "Gear "), Category(8, "nut")]


def test_names_match_without_regard_to_case_and_blanks() -> None:
    assert match(["NUT", "gear", "washer", " bolt"], PARTS, [0, 1, 2], "labels") == (2, 1, None, 0)


def test_exact_names_come_first_where_others_are_alike() -> None:
    categories = [Category(0, "a"), Category(1, "A"), Category(2, "b")]
    assert match(["A", "a", "b"], categories, [0, 1, 2], "labels") == (1, 0, 2)
    with pytest.raises(ConfigError, match="2 of 3 categories are no class"):
        match([" a ", "b"], categories, [0, 1, 2], "labels")


@pytest.mark.parametrize("names", [["rouge", "vert", "bleu"], ["bolt", "gear", "washer"], ["bolt"]])
def test_categories_that_match_no_class_are_listed(names: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"labels: \d of 3 categories are no class of the detector: found .*'nut'"):
        match(names, PARTS, [0, 1, 2], "labels")


def test_categories_without_boxes_need_no_class() -> None:
    assert match(["gear"], PARTS, [1], "labels") == (1,)


def test_a_detector_with_numbered_classes_takes_the_order_of_the_ids() -> None:
    assert match(["0", "1", "2"], PARTS, [0, 1, 2], "labels") == (0, 1, 2)
    roboflow = [Category(0, "parts"), *PARTS]
    assert match(["0", "1", "2"], roboflow, [1, 2, 3], "labels") == (1, 2, 3)
    with pytest.raises(ConfigError, match="3 of 3 categories"):
        match(["0", "1"], PARTS, [0, 1, 2], "labels")


def test_guesses_include_offsets_and_the_alphabet() -> None:
    result = guesses(["bolt", "gear", "nut"], [Category(1, "nut"), Category(2, "bolt"), Category(3, "gear")], [0, 1, 2])
    assert result == {
        "by name": (1, 2, 0),
        "in the order of the category ids": (0, 1, 2),
        "category id = class": (None, 0, 1),
        "category id = class + 1": (0, 1, 2),
        "categories in alphabetical order": (1, 2, 0),
    }


names = st.lists(st.text(max_size=4), min_size=1, max_size=6)


@given(names, names)
def test_a_match_covers_every_used_category_with_one_class_at_most(left: list[str], right: list[str]) -> None:
    unique = list(dict.fromkeys(right))
    categories = [Category(index, name) for index, name in enumerate(unique)]
    used = list(range(len(unique)))
    try:
        mapping = match(left, categories, used, "labels")
    except ConfigError as error:
        assert "\n" not in str(error).replace("\\n", "") or any("\n" in name for name in (*left, *right))
        return
    assert len(mapping) == len(left)
    assert set(used) <= {index for index in mapping if index is not None} <= set(range(len(categories)))
