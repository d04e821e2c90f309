"""The population stability index, and what a frame contributes."""

from __future__ import annotations

import math

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as some
from numpy.typing import NDArray
from samples import sample_detections

from edgesparse.service.monitor.distribution import BINS, LEAST, QUANTITIES, compare, measure, sharpness

RANDOM = np.random.default_rng(18)
BINS_OF_COUNTS = some.lists(some.integers(0, 10_000), min_size=BINS, max_size=BINS).map(np.array)


def bins(**counts: int) -> NDArray[np.int64]:
    """Counts per bin, as b3=10."""
    values = np.zeros(BINS, np.int64)
    for name, count in counts.items():
        values[int(name[1:])] = count
    return values


def test_the_index_is_the_published_sum_over_the_groups() -> None:
    before, now = bins(b3=500, b20=500), bins(b3=200, b20=800)
    comparison = compare(before, now)
    assert comparison is not None
    assert math.isclose(comparison.psi, (0.2 - 0.5) * math.log(0.2 / 0.5) + (0.8 - 0.5) * math.log(0.8 / 0.5))
    assert comparison.exceeds(0.25) and not comparison.exceeds(0.5)
    assert np.flatnonzero(comparison.grown).tolist() == [20]


@given(BINS_OF_COUNTS, BINS_OF_COUNTS)
def test_the_index_is_never_negative_and_zero_without_a_change(
    before: NDArray[np.int64], now: NDArray[np.int64]
) -> None:
    comparison = compare(before, now)
    assert (comparison is None) == (min(before.sum(), now.sum()) < LEAST)
    if comparison is not None:
        assert comparison.psi >= -1e-12 and comparison.noise > 0
        same = compare(before, before)
        assert same is not None and abs(same.psi) < 1e-12 and not same.exceeds(0.05)


def test_values_where_the_baseline_had_none_are_a_group_of_their_own() -> None:
    """All of a baseline in one bin, as of a camera that sees nothing: its tenths alone would show no change."""
    for dark in (bins(b0=200), bins(b31=200), bins(b12=200)):
        comparison = compare(bins(b10=500, b14=500), dark)
        assert comparison is not None and comparison.exceeds(1.0) and comparison.grown[np.argmax(dark)]


def test_chance_alone_is_no_drift() -> None:
    """Of 400 pairs of samples of one distribution, whose index exceeds the limit in some, none counts as drift."""
    above = 0
    for size in (LEAST, LEAST, LEAST, 200):
        for _ in range(100):
            first, second = (np.bincount(RANDOM.integers(0, BINS, size), minlength=BINS) for _ in range(2))
            comparison = compare(first, second)
            assert comparison is not None and not comparison.exceeds(0.25)
            above += comparison.psi >= 0.25
    assert above > 5


def test_a_frame_counts_once_per_quantity_and_its_scores_once_per_detection() -> None:
    image = np.full((96, 128, 3), 100, np.uint8)
    counts = measure(image, sample_detections(0, 1, 1, conf=0.9))
    assert counts.sum(axis=1).tolist() == [3, 1, 1, 1]
    means = [quantity.mean(row) for quantity, row in zip(QUANTITIES, counts, strict=True)]
    for mean, value, width in zip(means, (0.9, 3, 100, 0), (1 / 32, 1, 8, 0.5), strict=True):
        assert mean is not None and abs(mean - value) <= width


def test_sharpness_falls_with_blur_and_hardly_depends_on_the_size() -> None:
    noise = RANDOM.integers(0, 255, (360, 640), np.uint8)
    values = [sharpness(cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise) for sigma in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[0] - values[-1] > 5
    scene = cv2.cvtColor(cv2.resize(noise[:36, :64], (640, 360), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)
    large = cv2.resize(scene, (1920, 1080), interpolation=cv2.INTER_CUBIC)
    small, wide = (measure(image, sample_detections())[3].argmax() for image in (scene, large))
    assert abs(int(small) - int(wide)) <= 1
