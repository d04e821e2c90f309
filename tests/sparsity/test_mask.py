"""The 2:4 pattern: which weights are kept, what violates it, which layers can have it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgesparse.errors import SparsityError
from edgesparse.sparsity.mask import MIN_CHANNELS, ineligible, mask_2to4, violations

finite = st.floats(-100, 100, width=16)
dtypes = st.sampled_from([np.float16, np.float32])
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4).map(lambda n: 4 * n), st.integers(1, 3))
weights = st.tuples(dtypes, shapes).flatmap(lambda pair: arrays(pair[0], pair[1], elements=finite))


@given(weights)
def test_the_masked_weight_is_2to4_and_keeps_at_least_half_of_the_magnitude(weight: np.ndarray) -> None:
    mask = mask_2to4(weight)
    masked = weight * mask
    assert mask.dtype == bool and mask.shape == weight.shape
    assert violations(masked)[0] == 0
    assert mask.reshape(weight.shape[0], -1, 4, weight.shape[2]).sum(axis=2).max() == 2
    magnitude = np.abs(weight.astype(np.float64))
    assert (magnitude * mask).sum() >= magnitude.sum() / 2 - 1e-9


@given(weights)
def test_masking_twice_changes_nothing(weight: np.ndarray) -> None:
    masked = weight * mask_2to4(weight)
    np.testing.assert_array_equal(masked * mask_2to4(masked), masked)


@given(weights)
def test_another_axis_gives_the_same_mask_transposed(weight: np.ndarray) -> None:
    moved = np.moveaxis(weight, 1, 0)
    np.testing.assert_array_equal(np.moveaxis(mask_2to4(moved, axis=0), 0, 1), mask_2to4(weight))


def test_the_two_largest_stay_and_ties_go_to_the_lower_index() -> None:
    weight = np.array([[0.1, -3, 2, 0.5, 1, 1, 1, 1]], np.float32)
    assert mask_2to4(weight).tolist() == [[False, True, True, False, True, True, False, False]]


def test_the_lowest_int8_counts_as_the_largest() -> None:
    assert mask_2to4(np.array([[-128, 1, 2, 3]], np.int8)).tolist() == [[True, False, False, True]]


def test_violations_counts_groups_of_the_right_axis() -> None:
    weight = np.zeros((2, 8, 3, 3), np.float32)
    weight[1, 4:7, 2, 2] = 1
    assert violations(weight) == (1, 2 * 2 * 9)
    weight[1, 4, 2, 2] = 0
    assert violations(weight) == (0, 36)


def test_a_width_that_is_not_a_multiple_of_four_is_refused() -> None:
    for act in (mask_2to4, violations):
        with pytest.raises(SparsityError, match="found 6"):
            act(np.ones((4, 6), np.float32))


@pytest.mark.parametrize(
    ("shape", "group", "word"),
    [
        ((64, 3, 3, 3), 1, "first layer"),
        ((64, 1, 3, 3), 64, "depthwise"),
        ((64, 32, 3, 3), 2, "grouped"),
        ((64, 34, 3, 3), 1, "multiple of 4"),
        ((64, MIN_CHANNELS - 4, 3, 3), 1, "input channels"),
        ((9, 64, 1, 1), 1, "output channels"),
        ((64, 64, 3, 3), 1, None),
        ((MIN_CHANNELS, MIN_CHANNELS), 1, None),
    ],
)
def test_ineligible_layers_have_a_reason(shape: tuple[int, ...], group: int, word: str | None) -> None:
    reason = ineligible(shape, group)
    assert reason is None if word is None else (reason is not None and word in reason)
