"""Distributions of what a camera's frames show, and how far two of them are apart."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Image

BINS = 32
WIDTH = 640
"""Width in pixels at which brightness and sharpness are measured, so that they do not depend on the camera's size."""
LEAST = 150
"""Values that either distribution needs: with fewer, the formula for what chance explains does not hold."""
_GROUPS = 10
_ABSENT = 0.5
"""What an empty bin counts as, so that its share is not zero."""
_SIGMAS = 6.0

Bins = NDArray[np.int64]
"""Counts per bin [BINS]."""


@dataclass(frozen=True)
class Quantity:
    """A figure of a frame or of a detection, in BINS equal parts of the values from 0 to `most`."""

    name: str
    most: float

    def count(self, values: NDArray[np.floating]) -> Bins:
        """Return how many values are in each bin; values beyond the range count in the last one."""
        places = np.clip((values * (BINS / self.most)).astype(np.int64), 0, BINS - 1)
        return np.bincount(places, minlength=BINS)

    def mean(self, bins: Bins) -> float | None:
        """Return the mean of the values, as the middle of their bins; None if there are none."""
        total = int(bins.sum())
        return float(bins @ (np.arange(BINS) + 0.5) / total * self.most / BINS) if total else None


QUANTITIES = (
    Quantity("scores", 1.0),
    Quantity("detections", float(BINS)),
    Quantity("brightness", 256.0),
    Quantity("sharpness", 16.0),
)
"""Confidence of each detection; detections in a frame; mean gray value 0..255; sharpness as `sharpness` has it."""


def measure(image: Image, detections: Detections) -> NDArray[np.int64]:
    """Return the counts of one frame, BGR uint8 [H, W, 3], per quantity and bin: [4, BINS]."""
    gray = _gray(image)
    values = (
        detections.confidence,
        np.array([len(detections)], float),
        np.array([gray.mean()]),
        np.array([sharpness(gray)]),
    )
    return np.stack([quantity.count(each) for quantity, each in zip(QUANTITIES, values, strict=True)])


def _gray(image: Image) -> Image:
    height, width = image.shape[:2]
    if width > WIDTH:
        size = WIDTH, max(1, round(height * WIDTH / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def sharpness(gray: Image) -> float:
    """Return log2(1 + v), where v is the variance of the Laplacian of a gray image uint8 [H, W]: it falls with blur
    (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000).
    """
    return float(np.log2(1.0 + cv2.Laplacian(gray, cv2.CV_32F).var()))


@dataclass(frozen=True)
class Comparison:
    """`psi`: the population stability index. `noise`: what it reaches by chance alone with so few values. `grown`: the
    bins whose share has grown and that contribute most to it, bool [BINS]."""

    psi: float
    noise: float
    grown: NDArray[np.bool_]

    def exceeds(self, limit: float) -> bool:
        """Whether the distributions differ by more than `limit`, and by more than chance explains."""
        return self.psi >= max(limit, self.noise)


def compare(before: Bins, now: Bins) -> Comparison | None:
    """Return how far `now` is from `before`: the population stability index over tenths of `before` (Siddiqi, Credit
    Risk Scorecards, 2006), with all bins that are empty there as one more group. Its share of `before` is estimated as
    that of the bins with one value (Good, The Population Frequencies of Species, Biometrika 1953). None if either has
    fewer than LEAST values.

    Without a change, the index over B groups is a chi-squared value of B - 1 degrees of freedom, times the sum of the
    inverse numbers of values (Yurdakul, Statistical Properties of Population Stability Index, 2018). `noise` is six
    standard deviations above its mean.
    """
    if min(before.sum(), now.sum()) < LEAST:
        return None
    passed = (np.cumsum(before) - before) / before.sum()
    groups = np.where(before > 0, 1 + np.floor(_GROUPS * passed).astype(np.int64), 0)
    used = np.unique(groups[before + now > 0])
    counts = [np.bincount(groups, bins, _GROUPS + 1) for bins in (before, now)]
    counts[0][0] = np.count_nonzero(before == 1)
    shares = [_shares(each[used]) for each in counts]
    parts = (shares[1] - shares[0]) * np.log(shares[1] / shares[0])
    degrees = max(1, len(used) - 1)
    noise = (degrees + _SIGMAS * np.sqrt(2.0 * degrees)) * (1 / before.sum() + 1 / now.sum())
    most = used[np.argmax(np.where(shares[1] > shares[0], parts, -1.0))]
    return Comparison(float(parts.sum()), float(noise), groups == most)


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    filled = np.maximum(counts, _ABSENT)
    return np.asarray(filled / filled.sum())
