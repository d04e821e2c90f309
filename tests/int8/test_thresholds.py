"""Thresholds on distributions with known results, and properties that always hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgesparse.int8 import thresholds
from edgesparse.int8.histograms import MagnitudeHistogram
from edgesparse.int8.thresholds import LEVELS, METHODS

RNG = np.random.default_rng(0)
GAUSS = RNG.standard_normal(1_000_000).astype(np.float32)
LAPLACE = RNG.laplace(size=1_000_000).astype(np.float32)


def of(values: npt.ArrayLike) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def squared_error(values: npt.NDArray[np.float32], threshold: float) -> float:
    scale = threshold / 127
    return float(np.square(np.clip(np.rint(values / scale), -127, 127) * scale - values).mean())


def divergence(histogram: MagnitudeHistogram, bins: int) -> float:
    """The Kullback-Leibler divergence of one threshold, implemented as published."""
    counts = histogram.counts[: int(histogram.amax / histogram.width) + 1].astype(float)
    reference = counts[:bins].copy()
    reference[-1] += counts[bins:].sum()
    quantized = np.zeros(bins)
    for level in range(LEVELS):
        part = slice(bins * level // LEVELS, bins * (level + 1) // LEVELS)
        filled = reference[part] > 0
        if filled.any():
            quantized[part] = counts[part].sum() / filled.sum() * filled
    p, q = reference / reference.sum(), quantized / quantized.sum()
    with np.errstate(divide="ignore"):
        return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@pytest.mark.parametrize("values", [GAUSS, LAPLACE, np.abs(GAUSS), np.maximum(LAPLACE, 0)])
def test_entropy_is_the_least_divergence_of_all_thresholds(values: npt.NDArray[np.float32]) -> None:
    histogram = of(values[:50_000])
    used = int(histogram.amax / histogram.width) + 1
    trial = np.arange(LEVELS, used + 1, 7)
    least = min(divergence(histogram, int(bins)) for bins in trial)
    result = divergence(histogram, min(round(thresholds.entropy(histogram) / histogram.width), used))
    assert result <= least + 1e-12


def test_entropy_of_a_gaussian_clips_only_its_tail() -> None:
    result = thresholds.entropy(of(GAUSS))
    assert 2.5 < result < 4.8
    assert (np.abs(GAUSS) > result).mean() < 0.01


def test_entropy_of_a_laplacian_clips_more_of_a_longer_tail() -> None:
    histogram = of(LAPLACE)
    result = thresholds.entropy(histogram)
    assert 4 < result < 0.9 * histogram.amax


@pytest.mark.parametrize("method", ["entropy", "mse", "percentile"])
def test_a_few_outliers_do_not_set_the_range(method: str) -> None:
    plain = METHODS[method](of(GAUSS))
    result = METHODS[method](of(np.concatenate([GAUSS, [40, -35, 38]])))
    assert result < (20 if method == "mse" else 1.6 * plain)


def test_one_image_in_twenty_with_large_values_leaves_the_steps_to_the_others() -> None:
    histogram = MagnitudeHistogram()
    images = GAUSS[:200_000].reshape(20, -1) * np.where(np.arange(20) == 7, 20, 1)[:, None].astype(np.float32)
    for image in images:
        histogram.add(image)
    usual = np.delete(images, 7, 0)
    result, together = thresholds.mse(histogram), thresholds.mse(of(images))
    assert squared_error(usual, result) < 0.3 * squared_error(usual, together)
    assert histogram.amax > 2 * result


def test_entropy_of_a_uniform_distribution_clips_nothing() -> None:
    assert thresholds.entropy(of(RNG.uniform(-1, 1, 500_000))) > 0.97


def test_scale_of_the_values_is_that_of_the_threshold() -> None:
    for method in METHODS.values():
        assert method(of(GAUSS * 1024)) == pytest.approx(1024 * method(of(GAUSS)), rel=1e-6)


def test_percentile_is_numpy_s() -> None:
    for values in (GAUSS, LAPLACE, np.maximum(GAUSS, 0)):
        expected = np.percentile(np.abs(values), thresholds.PERCENT)
        histogram = of(values)
        assert thresholds.percentile(histogram) == pytest.approx(expected, abs=histogram.width)


@pytest.mark.parametrize("values", [GAUSS[:20_000], LAPLACE[:20_000], np.append(GAUSS[:20_000], np.float32(30))])
def test_mse_is_within_a_step_of_the_least_squared_error(values: npt.NDArray[np.float32]) -> None:
    histogram = of(values)
    least = min(squared_error(values, histogram.amax * k / 500) for k in range(5, 501))
    assert squared_error(values, thresholds.mse(histogram)) < 1.02 * least


VALUES = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


@settings(max_examples=60)
@given(VALUES, st.sampled_from(sorted(METHODS)))
def test_a_threshold_is_within_the_range(values: npt.NDArray[np.float32], method: str) -> None:
    histogram = of(values)
    result = METHODS[method](histogram)
    assert 0 <= result <= histogram.amax
    assert result > 0 or histogram.amax == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.0, -3.0, 1.0, 2.0**-120, -1e-38, 1e-45, 3e38])
def test_a_constant_tensor_keeps_its_value(method: str, value: float) -> None:
    assert METHODS[method](of(np.full(1000, value))) == pytest.approx(abs(np.float32(value)), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_one_sign_has_the_range_of_its_mirror_image(method: str) -> None:
    positive = np.abs(LAPLACE)
    assert METHODS[method](of(-positive)) == METHODS[method](of(positive)) == METHODS[method](of(LAPLACE))


@pytest.mark.parametrize("method", ["entropy", "mse", "max"])
def test_zeros_do_not_change_the_threshold(method: str) -> None:
    """Zeros after a ReLU, which every scale represents exactly."""
    with_zeros = np.concatenate([np.abs(GAUSS), np.zeros(3_000_000)])
    assert METHODS[method](of(with_zeros)) == METHODS[method](of(np.abs(GAUSS)))


def test_a_tensor_of_nearly_all_zeros_keeps_a_range() -> None:
    values = np.zeros(1_000_000)
    values[0] = 5
    assert thresholds.percentile(of(values)) > 0
