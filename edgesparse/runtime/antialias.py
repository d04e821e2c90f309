"""Resizing with antialiasing, for classifiers, whose trainers resize with Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK = 128
"""Rows that are resized at once."""


class Antialias:
    """Resizes images of one size and crops the result, as Pillow's BILINEAR filter does: each pixel is the mean of a
    neighborhood that grows with the reduction, weighted by a triangle; columns first, rounded, then rows
    (https://github.com/python-pillow/Pillow, src/libImaging/Resample.c). Weights are float32 instead of fixed point,
    so that a value close to a half may be rounded the other way. Buffers are allocated here.

    `shape`: of the image [H, W, 3]; `resized`: height and width it is resized to; `top`, `left`: the first row and
    column of the result; `out`: its height and width.
    """

    def __init__(
        self, shape: tuple[int, ...], resized: tuple[int, int], top: int, left: int, out: tuple[int, int]
    ) -> None:
        rows = weights(shape[0], resized[0])[top : top + out[0]]
        columns = weights(shape[1], resized[1])[left : left + out[1]]
        (self._top, bottom), (self._left, self._right) = _reach(rows), _reach(columns)
        self._rows = [(first - self._top, share) for first, share in rows]
        # One matrix [3 * k, 3] per column, since the three colors of a pixel are next to each other.
        three = np.eye(3, dtype=np.float32)
        self._columns = [(3 * (first - self._left), np.kron(share[:, None], three)) for first, share in columns]
        self._block = np.empty((BLOCK, 3 * (self._right - self._left)), np.float32)
        self._across = np.empty((bottom - self._top, 3 * out[1]), np.float32)
        self._row = np.empty(3 * out[1], np.float32)

    def __call__(self, image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Write the resized and cropped image [H, W, 3] to `out`."""
        for start in range(0, len(self._across), BLOCK):
            across = self._across[start : start + BLOCK]
            block = self._block[: len(across)]
            first = self._top + start
            seen = image[first : first + len(across), self._left : self._right]
            np.copyto(block.reshape(len(across), -1, 3), seen)
            for x, (begin, share) in enumerate(self._columns):
                np.matmul(block[:, begin : begin + len(share)], share, out=across[:, 3 * x : 3 * x + 3])
        _round(self._across)
        for y, (begin, share) in enumerate(self._rows):
            np.dot(share, self._across[begin : begin + len(share)], out=self._row)
            np.copyto(out[y], _round(self._row).reshape(-1, 3), casting="unsafe")


def _round(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to whole numbers in place, halves up."""
    values += np.float32(0.5)
    return np.floor(values, out=values)


def _reach(shares: Sequence[tuple[int, NDArray[np.float32]]]) -> tuple[int, int]:
    """The first pixel that counts, and the one after the last."""
    return min(first for first, _ in shares), max(first + len(share) for first, share in shares)


def weights(source: int, target: int) -> list[tuple[int, NDArray[np.float32]]]:
    """For each of `target` pixels of a side resized from `source`: the first of its neighbors, and their shares."""
    scale = source / target
    reach = max(scale, 1.0)
    result = []
    for i in range(target):
        middle = (i + 0.5) * scale
        first, end = max(0, int(middle - reach + 0.5)), min(source, int(middle + reach + 0.5))
        distance = np.abs((np.arange(first, end) - middle + 0.5) / reach)
        share = np.maximum(0, 1 - distance)
        result.append((first, (share / share.sum()).astype(np.float32)))
    return result
