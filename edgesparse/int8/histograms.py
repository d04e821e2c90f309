"""Histograms of a tensor's magnitudes over any number of images, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
class Part:
    """The counts of some batches, and their number."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    batches: int = 0


@dataclass
class MagnitudeHistogram:
    """Magnitudes of a tensor in BINS equal bins over [0, 2**exponent).

    The range is the first power of two above every magnitude so far and grows by merging neighboring bins, so that the
    counts do not depend on the order of the values. At least half of the bins are below `amax`. Exact zeros, which
    every scale represents exactly, are counted separately. Batches whose largest magnitudes are far apart are counted
    apart, so that `balanced` can weight them.
    """

    parts: dict[int, Part] = field(default_factory=dict)
    """The batches by the exponent of their largest magnitude."""
    exponent: int = SMALLEST
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf

    @property
    def amax(self) -> float:
        """The largest magnitude; 0 if all values were zero."""
        return abs(max(-self.low, self.high, 0.0))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """The number of values in each bin."""
        return sum((part.counts for part in self.parts.values()), np.zeros(BINS, np.int64))

    @property
    def balanced(self) -> npt.NDArray[np.float64]:
        """The counts, weighted so that an error counts relative to the squares of its batch.

        A few images may hold values ten times as large as all others. The sum of squared errors is then that of these
        images, and a range for them leaves the others few steps. A batch with smaller squares than usual counts at most
        twice as much as the usual one.
        """
        middles = (np.arange(BINS, dtype=np.float64) + 0.5) / BINS
        squares = {key: float(part.counts @ middles**2) / part.batches for key, part in self.parts.items()}
        usual = _median([(squares[key], part.batches) for key, part in self.parts.items()])
        weighted = (part.counts / max(squares[key] + usual, 1e-300) for key, part in self.parts.items())
        return sum(weighted, np.zeros(BINS))

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
        part = self.parts.setdefault(math.frexp(max(-low, high, 0.0))[1], Part())
        part.batches += 1
        self._count(flat, part)

    def _count(self, flat: Array, part: Part) -> None:
        factor = np.float32(math.ldexp(BINS, -self.exponent))
        for start in range(0, flat.size, CHUNK):
            some = flat[start : start + CHUNK].astype(np.float32, copy=False)
            zeros = some.size - int(np.count_nonzero(some))
            part.counts += np.bincount((np.abs(some) * factor).astype(np.intp), minlength=BINS)
            part.counts[0] -= zeros
            self.zeros += zeros

    def copy(self) -> MagnitudeHistogram:
        parts = {key: Part(part.counts.copy(), part.batches) for key, part in self.parts.items()}
        return MagnitudeHistogram(parts, self.exponent, self.zeros, self.low, self.high)

    def _widen(self, exponent: int) -> None:
        steps = exponent - self.exponent
        if steps <= 0:
            return
        self.exponent = exponent
        for part in self.parts.values():
            merged = part.counts.reshape(-1, min(BINS, 1 << min(steps, 12))).sum(1)
            part.counts = np.zeros(BINS, np.int64)
            part.counts[: len(merged)] = merged


def _median(values: Sequence[tuple[float, int]]) -> float:
    """Return the median of (value, number of times) pairs; 0 if there are none."""
    total, seen = sum(times for _, times in values), 0
    for value, times in sorted(values):
        seen += times
        if 2 * seen >= total:
            return value
    return 0.0
