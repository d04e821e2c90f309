"""Where to clip a tensor's range for symmetric INT8: magnitudes above the threshold are clipped to it.

Each method takes a MagnitudeHistogram and returns a threshold above 0 and at most the largest magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgesparse.int8.histograms import BINS, MagnitudeHistogram

LEVELS = 128
"""Magnitudes that INT8 can represent."""
PERCENT = 99.99
CANDIDATES = 128
"""Number of thresholds that the search for the smallest squared error tries."""

Counts = npt.NDArray[np.float64]


def entropy(histogram: MagnitudeHistogram) -> float:
    """Return the threshold with the smallest Kullback-Leibler divergence of the INT8 distribution from the tensor's.

    Migacz, "8-bit inference with TensorRT", GTC 2017: for each threshold, the bins below it, with everything clipped
    added to the last, against the same bins averaged in LEVELS groups over those that are not empty. Zeros are not
    counted, as in NVIDIA's calibrators: any scale represents them.
    """
    counts = _used(histogram, histogram.counts)
    stops = np.arange(LEVELS, len(counts) + 1)
    if not len(stops):
        return histogram.amax
    divergence = _divergence(counts, stops)
    best = len(stops) - 1 - int(np.argmin(divergence[::-1]))
    return min(float(stops[best]) * histogram.width, histogram.amax)


def percentile(histogram: MagnitudeHistogram, percent: float = PERCENT) -> float:
    """Return the magnitude that `percent` of all values, including zeros, do not exceed."""
    counts = _used(histogram, histogram.counts)
    target = histogram.total * percent / 100 - histogram.zeros
    below = np.cumsum(counts)
    at = min(int(np.searchsorted(below, target)), len(counts) - 1)
    before = below[at] - counts[at]
    inside = np.clip((target - before) / counts[at], 0, 1) if counts[at] else 1.0
    # at least half a bin, so that a tensor of almost only zeros keeps a range
    return min((at + max(float(inside), 0.5)) * histogram.width, histogram.amax)


def mse(histogram: MagnitudeHistogram) -> float:
    """Return the threshold with the smallest mean squared error of rounding and clipping together, relative to the
    squares of each batch: images with exceptionally large values do not set the range of all others.
    """
    if not histogram.amax:
        return 0.0
    counts = _used(histogram, histogram.balanced)
    middles: Counts = (np.arange(len(counts), dtype=np.float64) + 0.5) * histogram.width
    candidates = histogram.amax * np.arange(1, CANDIDATES + 1)[::-1] / CANDIDATES
    errors = [_squared_error(counts, middles, threshold) for threshold in candidates]
    return float(candidates[int(np.argmin(errors))])


def largest(histogram: MagnitudeHistogram) -> float:
    """Return the largest magnitude: nothing is clipped."""
    return histogram.amax


METHODS: Mapping[str, Callable[[MagnitudeHistogram], float]] = {
    "entropy": entropy,
    "percentile": percentile,
    "mse": mse,
    "max": largest,
}


def _used(histogram: MagnitudeHistogram, counts: npt.NDArray[np.generic]) -> Counts:
    """Return the bins of `counts` up to and including that of the largest magnitude."""
    last = min(int(histogram.amax / histogram.width), BINS - 1)
    return counts[: last + 1].astype(np.float64)


def _divergence(counts: Counts, stops: npt.NDArray[np.int64]) -> Counts:
    """The divergence for each threshold, a count of bins in `stops`; infinite where clipped values hit an empty group.

    A threshold's sums are sums over its groups, so running totals give all of them without a loop.
    """
    total, filled, information = (_running(values) for values in (counts, counts > 0, _xlogx(counts)))
    edges = stops[:, None] * np.arange(LEVELS + 1) // LEVELS
    inside, bins = np.diff(total[edges], axis=1), np.diff(filled[edges], axis=1)
    clipped = total[-1] - total[stops]
    last = counts[stops - 1]
    bins[:, -1] += (last == 0) & (clipped > 0)
    reference = inside.copy()
    reference[:, -1] += clipped
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = np.where(reference > 0, reference * np.log(inside / bins), 0).sum(1)
        own = information[stops - 1] + _xlogx(last + clipped)
        divergence = (own - cross) / total[-1] - np.log(total[-1]) + np.log(total[stops])
    return np.where(np.isfinite(divergence), divergence, np.inf)


def _running(values: npt.NDArray[np.generic]) -> Counts:
    return np.concatenate([[0.0], np.cumsum(values.astype(np.float64))])


def _xlogx(values: Counts) -> Counts:
    return np.asarray(values * np.log(np.where(values > 0, values, 1)))


def _squared_error(counts: Counts, middles: Counts, threshold: float) -> float:
    scale = threshold / (LEVELS - 1)
    rounded = np.minimum(np.rint(middles / scale), LEVELS - 1) * scale
    return float(counts @ np.square(middles - rounded))
