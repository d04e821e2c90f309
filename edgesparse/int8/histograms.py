"""Histograms of a tensor's magnitudes over any number of images, in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgesparse.model.wiring import Array

BINS = 4096
SMALLEST = -110
"""Exponent of the smallest range: below it, float32 cannot represent the bins."""
CHUNK = 1 << 20
"""Values counted at a time: the only memory that counting needs besides the tensor itself."""


@dataclass
class MagnitudeHistogram:
    """Magnitudes of a tensor in BINS equal bins over [0, 2**exponent).

    The range is the first power of two above every magnitude so far and grows by merging neighboring bins, so that the
    counts do not depend on the order of the values. At least half of the bins are below `amax`. Exact zeros, which
    every scale represents exactly, are counted separately.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int = SMALLEST
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf

    @property
    def amax(self) -> float:
        """The largest magnitude; 0 if all values were zero."""
        return abs(max(-self.low, self.high, 0.0))

    @property
    def width(self) -> float:
        """Width of one bin."""
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def total(self) -> int:
        """Number of values counted, including zeros."""
        return int(self.counts.sum()) + self.zeros

    def add(self, values: Array) -> None:
        """Count `values`, floats of any shape. Raises ValueError for NaN or infinity, before anything is counted."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN" if math.isnan(low) or math.isnan(high) else "infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.amax:
            self._widen(math.frexp(self.amax)[1])
        factor = np.float32(math.ldexp(BINS, -self.exponent))
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK].astype(np.float32, copy=False)
            zeros = part.size - int(np.count_nonzero(part))
            self.counts += np.bincount((np.abs(part) * factor).astype(np.intp), minlength=BINS)
            self.counts[0] -= zeros
            self.zeros += zeros

    def copy(self) -> MagnitudeHistogram:
        return MagnitudeHistogram(self.counts.copy(), self.exponent, self.zeros, self.low, self.high)

    def _widen(self, exponent: int) -> None:
        steps = exponent - self.exponent
        if steps <= 0:
            return
        self.exponent = exponent
        merged = self.counts.reshape(-1, min(BINS, 1 << min(steps, 12))).sum(1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[: len(merged)] = merged
