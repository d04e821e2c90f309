"""Counting magnitudes in constant memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgesparse.int8.histograms import BINS, MagnitudeHistogram

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
BATCHES = st.lists(hnp.arrays(np.float32, st.integers(1, 40), elements=FINITE), min_size=1, max_size=6)


def counted(*batches: npt.NDArray[np.float32]) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def same(first: MagnitudeHistogram, second: MagnitudeHistogram) -> bool:
    ends = (first.exponent, first.zeros, first.low, first.high) == (
        second.exponent,
        second.zeros,
        second.low,
        second.high,
    )
    return ends and bool((first.counts == second.counts).all())


@settings(max_examples=50)
@given(BATCHES, st.randoms(use_true_random=False))
def test_the_order_of_the_batches_changes_no_count(batches: list[npt.NDArray[np.float32]], shuffled: object) -> None:
    other = list(batches)
    shuffled.shuffle(other)  # type: ignore[attr-defined]
    whole = counted(np.concatenate(batches))
    assert same(counted(*batches), whole)
    assert same(counted(*other), whole)


@settings(max_examples=50)
@given(BATCHES)
def test_every_value_is_counted_in_the_bin_of_its_magnitude(batches: list[npt.NDArray[np.float32]]) -> None:
    histogram = counted(*batches)
    values = np.abs(np.concatenate(batches).astype(np.float64))
    assert histogram.total == len(values)
    assert histogram.zeros == (values == 0).sum()
    assert histogram.amax == values.max()
    expected = np.bincount((values[values > 0] / histogram.width).astype(int), minlength=BINS)
    np.testing.assert_array_equal(histogram.counts, expected)


def test_at_least_half_the_bins_are_below_the_largest_magnitude() -> None:
    for largest in (1.0, 1.999, 2.0, 3e-7, 5e20):
        used = np.flatnonzero(counted(np.linspace(0, largest, 100_000, dtype=np.float32)).counts)[-1]
        assert BINS // 2 <= used < BINS


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_and_not_counted(bad: float) -> None:
    histogram = counted(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "infinity"):
        histogram.add(np.array([1, bad, 2], np.float32))
    assert same(histogram, counted(np.ones(3, np.float32)))


def test_half_precision_counts_as_single() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float16)
    assert same(counted(values.astype(np.float32)), counted(values))  # type: ignore[arg-type]


def test_memory_does_not_depend_on_the_number_of_values() -> None:
    histogram = MagnitudeHistogram()
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    histogram.add(values)
    tracemalloc.start()
    for i in range(50):
        histogram.add(values * np.float32(1 + i))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < (len(histogram.parts) + 2) * histogram.counts.nbytes
    assert len(histogram.parts) < 8, "one for each doubling of the largest magnitude"


def test_batches_alike_are_balanced_already() -> None:
    values = np.random.default_rng(0).uniform(1, 1.9, (4, 1000)).astype(np.float32)
    histogram = counted(*values)
    np.testing.assert_allclose(histogram.balanced / histogram.balanced.sum(), histogram.counts / histogram.counts.sum())


def test_a_batch_of_large_values_counts_by_its_share_of_error() -> None:
    plain = np.random.default_rng(0).standard_normal((9, 1000)).astype(np.float32)
    histogram = counted(*plain, 100 * plain[0])
    squares = (np.arange(BINS) + 0.5) ** 2
    usual = int(plain.max() / histogram.width) + 1
    shares = histogram.balanced * squares
    assert shares[usual:].sum() < 0.2 * shares.sum()  # two of ten at most; by squares nearly all
    assert (histogram.counts * squares)[usual:].sum() > 0.99 * (histogram.counts * squares).sum()


def test_a_batch_of_small_values_counts_at_most_twice() -> None:
    plain = np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32)
    histogram = counted(*plain, plain[0] / 1000)
    weight = histogram.balanced[histogram.counts > 0] / histogram.counts[histogram.counts > 0]
    assert weight.max() <= 2.01 * np.median(weight)


def test_all_zero_batches_have_no_weight() -> None:
    assert counted(np.zeros(5, np.float32)).balanced.sum() == 0
