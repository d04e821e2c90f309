"""The map of confidences: it undoes what was done to them, and leaves noise alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.runtime.confidence_map import ConfidenceMap, fit, identity
from edgesparse.runtime.confidence_shift import BoxPairs

CLASSES = 4


def pairs(scale: float, offsets: list[float], noise: float = 0.0, count: int = 400) -> BoxPairs:
    """The changed model's logit is the original's, through the inverse of the map, with noise."""
    random = np.random.default_rng(0)
    of = random.integers(0, CLASSES, count)
    z = random.normal(0, 1.5, count)
    changed = (z - np.array(offsets)[of]) / scale + random.normal(0, noise, count)
    return BoxPairs(1, count, of, 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-changed)))


def fitted(some: BoxPairs, classes: int = CLASSES) -> ConfidenceMap:
    result = fit(some, classes)
    assert result is not None
    return result


@settings(max_examples=25)
@given(st.floats(0.8, 1.25), st.lists(st.floats(-0.4, 0.4), min_size=CLASSES, max_size=CLASSES))
def test_it_brings_confidences_back(scale: float, offsets: list[float]) -> None:
    some = pairs(scale, offsets)
    before = np.median(np.abs(some.before - some.after))
    after = np.median(np.abs(some.before - fitted(some)(some)))
    assert after <= max(0.35 * before, 0.012)


def test_noise_alone_is_no_shift() -> None:
    noise_map = fitted(pairs(1.0, [0.0] * CLASSES, noise=0.3))
    assert noise_map.scale == pytest.approx(1, abs=0.1) and np.abs(noise_map.offsets).max() < 0.1


def test_a_class_with_few_boxes_follows_the_others() -> None:
    some = pairs(1.0, [0.3] * CLASSES, noise=0.2)
    keep = (some.class_id > 0) | (np.arange(400) < 6)
    few = BoxPairs(1, 400, some.class_id[keep], some.before[keep], some.after[keep])
    assert fitted(few).offsets[0] == pytest.approx(0.3, abs=0.1)


@pytest.mark.filterwarnings("error")
def test_without_two_boxes_of_any_class_all_classes_get_one_offset() -> None:
    random = np.random.default_rng(0)
    z, of = random.uniform(0, 2, 40), np.arange(40)
    one_each = BoxPairs(1, 40, of, 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(0.4 - z + random.normal(0, 0.1, 40))))
    offsets = fitted(one_each, 80).offsets
    assert np.isfinite(offsets).all() and np.ptp(offsets) == 0


def test_too_few_pairs_change_nothing() -> None:
    assert fit(pairs(0.8, [1.0] * CLASSES, count=20), CLASSES) is None


def test_maps_combine() -> None:
    first, second = ConfidenceMap(0.5, np.array([1.0, 2.0])), ConfidenceMap(3.0, np.array([0.0, -1.0]))
    both = second.after(first)
    assert both.scale == 1.5 and both.offsets.tolist() == [3.0, 5.0]
    assert identity(2).after(first).offsets.tolist() == [1.0, 2.0]
