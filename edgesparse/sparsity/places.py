"""How much each place of the calibration images counts: where objects are more than elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
OBJECTS = 0.5
"""The share of the weight that places with objects have between them; the rest lies evenly on all places."""
COARSE = 8
"""Pixels a side of the cells that are kept: the finest grid that detectors answer on."""


@dataclass(frozen=True, eq=False)
class Places:
    """Weights for a feature map's positions, from `maps` [N, height, width] of each batch, 1 where objects are."""

    maps: tuple[Floats, ...]

    @classmethod
    def of(cls, maps: Iterable[Floats]) -> Places:
        """From maps in the input's pixels, of which means over cells of COARSE pixels a side are kept."""
        return cls(tuple(resized(one, -(-one.shape[1] // COARSE), -(-one.shape[2] // COARSE)) for one in maps))

    def every(self, step: int) -> Places:
        """Those of one batch in `step`."""
        return Places(self.maps[::step])

    def weights(self, batch: int, height: int, width: int) -> Floats:
        """[N * height * width], with a mean of 1 over all batches, of a layer whose output has this size."""
        if not self._mean:
            return np.ones(len(self.maps[batch]) * height * width, np.float32)
        return (1 - OBJECTS + OBJECTS / self._mean * resized(self.maps[batch], height, width)).reshape(-1)

    @cached_property
    def key(self) -> bytes:
        """The same for the same places."""
        return b"".join(repr(one.shape).encode() + one.tobytes() for one in self.maps)

    @cached_property
    def _mean(self) -> float:
        return float(np.mean([one.mean() for one in self.maps])) if self.maps else 0.0


def resized(maps: Floats, height: int, width: int) -> Floats:
    """`maps` [N, h, w] as [N, height, width]: each value is the mean over the area that it covers."""
    rows, columns = _shares(maps.shape[1], height), _shares(maps.shape[2], width)
    return np.asarray(rows @ maps @ columns.T, np.float32)


@cache
def _shares(old: int, new: int) -> Floats:
    """[new, old]: how much of each of `new` equal parts of a line lies in each of `old` equal parts."""
    start, end = np.arange(new)[:, None] * old / new, np.arange(1, new + 1)[:, None] * old / new
    cell = np.arange(old)
    covered = np.clip(np.minimum(end, cell + 1) - np.maximum(start, cell), 0, None)
    return np.asarray(covered * (new / old), np.float32)
