"""The grids that detectors predict on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""Strides of plain detectors, of those with a P6 level, of those with a P2 level, and of tiny ones."""


def side(length: int, stride: int) -> int:
    """Number of cells along a side of `length` pixels. A convolution that halves an odd side rounds up."""
    return -(-length // stride)


def cells(size: tuple[int, int], strides: Sequence[int] = (8, 16, 32)) -> int:
    """Number of cells of all strides for an input of (height, width)."""
    return sum(side(size[0], s) * side(size[1], s) for s in strides)


def strides_of(count: int, size: tuple[int, int]) -> tuple[int, ...] | None:
    """The strides among STRIDES whose cells add up to `count`; None if there are none."""
    return next((strides for strides in STRIDES if cells(size, strides) == count), None)


def strides_for(count: int, size: tuple[int, int]) -> tuple[int, ...]:
    """Like `strides_of`, but raises LookupError if there are none."""
    strides = strides_of(count, size)
    if strides is None:
        raise LookupError(f"{count} are the cells of no known grid")
    return strides


def is_dense(count: int, size: tuple[int, int]) -> bool:
    """Whether `count` is one prediction per cell of a grid with stride 8.

    Coarse grids alone may have as many cells as a list has rows: 300 for strides 16 and 32 of 192x320.
    """
    return 8 in (strides_of(count, size) or ())


def grid(size: tuple[int, int], strides: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Top-left corners [cells, 2] of the cells, in cells (x, y), and the stride [cells, 1] of each."""
    corners, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: side(size[0], stride), : side(size[1], stride)]
        corners.append(np.stack([columns, rows], -1).reshape(-1, 2))
        steps.append(np.full((rows.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(steps).astype(np.float32)


def priors(center: NDArray[Any], step: ArrayLike, size: ArrayLike) -> NDArray[np.float32]:
    """The priors [n, 6] of a Strided, for centers [n, 2]. `step`, `size`: for all, or [n, 1] or [n, 2]; in pixels."""
    return np.concatenate([center, *(np.broadcast_to(part, center.shape) for part in (step, size))], 1, dtype="float32")


def is_decoded(raw: NDArray[np.floating], size: tuple[int, int]) -> bool:
    """Whether centers [cells, 2 or more] are in pixels, near their cells, rather than offsets near 0."""
    corner, stride = grid(size, strides_of(len(raw), size) or ())
    from_cell = np.abs(raw[:, :2] - (corner + 0.5) * stride) / stride
    return bool(np.median(from_cell) < np.median(np.abs(raw[:, :2])))
