"""How much each position in the calibration images counts: positions with objects count more than others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
OBJECTS = 0.5
"""Share of the total weight of positions with objects; the rest is spread evenly over all positions."""
COARSE = 8
"""Side of a stored cell in pixels: the finest grid that detectors predict on."""


@dataclass(frozen=True, eq=False)
class PositionWeights:
    """Weights for a feature map's positions, from `maps` [N, height, width] per batch, 1 where objects are."""

    maps: tuple[Floats, ...]

    @classmethod
    def of(cls, maps: Iterable[Floats]) -> PositionWeights:
        """Return weights from maps in the input's pixels, stored as means over cells of COARSE x COARSE pixels."""
        return cls(tuple(resize(batch, -(-batch.shape[1] // COARSE), -(-batch.shape[2] // COARSE)) for batch in maps))

    def every(self, step: int) -> PositionWeights:
        """Return the weights of every `step`-th batch."""
        return PositionWeights(self.maps[::step])

    def weights(self, batch: int, height: int, width: int) -> Floats:
        """[N * height * width], with a mean of 1 over all batches, for a layer whose output has this size."""
        if not self._mean:
            return np.ones(len(self.maps[batch]) * height * width, np.float32)
        return (1 - OBJECTS + OBJECTS / self._mean * resize(self.maps[batch], height, width)).reshape(-1)

    @cached_property
    def key(self) -> bytes:
        """Equal for equal weights."""
        return b"".join(repr(batch.shape).encode() + batch.tobytes() for batch in self.maps)

    @cached_property
    def _mean(self) -> float:
        return float(np.mean([batch.mean() for batch in self.maps])) if self.maps else 0.0


def resize(maps: Floats, height: int, width: int) -> Floats:
    """Resize `maps` [N, h, w] to [N, height, width]: each value is the mean over the area that it covers."""
    rows, columns = _shares(maps.shape[1], height), _shares(maps.shape[2], width)
    return np.asarray(rows @ maps @ columns.T, np.float32)


@cache
def _shares(old: int, new: int) -> Floats:
    """Return [new, old]: how much of each of `new` equal parts of a line falls into each of `old` equal parts."""
    start, end = np.arange(new)[:, None] * old / new, np.arange(1, new + 1)[:, None] * old / new
    cell = np.arange(old)
    covered = np.clip(np.minimum(end, cell + 1) - np.maximum(start, cell), 0, None)
    return np.asarray(covered * (new / old), np.float32)
