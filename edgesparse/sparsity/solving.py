"""Systems of normal equations that share one matrix: each row of weights keeps, and solves for, a part of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.model.threads import in_threads

Matrix = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
CHUNK = 1 << 23
"""Bytes of matrices that a thread works on at a time."""
HELD = 1 << 28
"""Most bytes of factors that `Kept` holds; what does not fit is factored again for each right-hand side."""
BLOCK = 16
"""Rows of a triangular factor that are solved for at once."""


def solve(h: Matrix, g: Matrix, mask: Mask) -> Matrix:
    """For each row r the weights that minimize w h w' - 2 g[r] w', zero where `mask` is False.

    `h` [d, d] positive definite, `g` and `mask` [r, d], with equally many True in each row.
    """
    weight: Matrix = Kept(h[None], mask[None], 0).solve(g[None])[0]
    return weight


class Kept:
    """Solves what `solve` does for several parts at once, `h` [parts, d, d] and `mask` [parts, r, d], and as often as
    needed: factors take far longer than solutions, so up to `held` bytes of them are held.
    """

    def __init__(self, h: Matrix, mask: Mask, held: int = HELD) -> None:
        self._systems = _Systems(h, mask)
        self._room = held
        self._held: dict[int, _Factor] = {}

    def solve(self, g: Matrix) -> Matrix:
        """Return the weights for `g` [parts, r, d], in its shape."""
        right = self._systems.right(g)
        return self._systems.solved(lambda some: self._factor(some).solve(right[some]))

    def _factor(self, some: slice) -> _Factor:
        factor = self._held.get(some.start)
        if factor is None:
            factor = _Factor(self._systems.matrices(some))
            if factor.nbytes <= self._room:
                self._room -= factor.nbytes
                self._held[some.start] = factor
        return factor


class _Factor:
    """Cholesky factors of `matrices` [n, k, k], by blocks of rows: what is left of the diagonal, and the inverse of the
    triangle on it, since NumPy has no solver for triangles.
    """

    def __init__(self, matrices: Matrix) -> None:
        self._blocks: list[tuple[slice, npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._inverse: npt.NDArray[Any] | None = None
        try:
            lower: npt.NDArray[Any] = np.linalg.cholesky(matrices)
        except np.linalg.LinAlgError:
            # covariances of inputs that vary far less than their means are: float32 rounds them below zero
            self._inverse = np.linalg.inv(matrices)
            return
        for first in range(0, lower.shape[1], BLOCK):
            rows = slice(first, first + BLOCK)
            self._blocks.append((rows, lower[:, rows, :first].copy(), np.linalg.inv(lower[:, rows, rows])))

    @property
    def nbytes(self) -> int:
        whole = 0 if self._inverse is None else self._inverse.nbytes
        return whole + sum(left.nbytes + inverse.nbytes for _, left, inverse in self._blocks)

    def solve(self, right: Matrix) -> Matrix:
        """Return the solutions for `right` [n, k, sides]."""
        if self._inverse is not None:
            return self._inverse @ right
        solution = right.copy()
        for rows, left, inverse in self._blocks:
            solution[:, rows] = inverse @ (solution[:, rows] - left @ solution[:, : rows.start])
        for rows, left, inverse in reversed(self._blocks):
            solution[:, rows] = inverse.swapaxes(1, 2) @ solution[:, rows]
            solution[:, : rows.start] -= left.swapaxes(1, 2) @ solution[:, rows]
        return solution


class _Systems:
    """`h` [parts, d, d] without what the rows of `mask` [parts, r, d] drop: one system per row, with one right-hand
    side, or per part if its rows keep the same, with r right-hand sides.
    """

    def __init__(self, h: npt.NDArray[Any], mask: Mask) -> None:
        self._h, self._shape = h, mask.shape
        own = mask[:, :1] if (mask == mask[:, :1]).all() else mask
        self._count, self._rows = own.shape[0] * own.shape[1], own.shape[1]
        self._kept = np.nonzero(own)[2].reshape(self._count, -1)

    def right(self, g: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the right-hand sides [systems, kept, sides] of `g` [parts, r, d]."""
        sides = g.reshape(self._count, -1, g.shape[2]).transpose(0, 2, 1)
        return np.take_along_axis(sides, self._kept[:, :, None], 1)

    def matrices(self, some: slice) -> npt.NDArray[Any]:
        """Return the left-hand sides of `some` systems, [systems, kept, kept]."""
        numbers = range(self._count)[some]
        return np.stack([self._h[i // self._rows].take(self._kept[i], 0).take(self._kept[i], 1) for i in numbers])

    def solved(self, solution: Callable[[slice], npt.NDArray[Any]]) -> Matrix:
        """Return the weights [parts, r, d]; `solution` of some systems, called in threads: [systems, kept, sides]."""
        count = max(1, CHUNK // max(1, self._h.itemsize * self._kept.shape[1] ** 2))
        chunks = [slice(first, first + count) for first in range(0, self._count, count)]
        values = np.concatenate([solution(chunks[0])] if len(chunks) == 1 else list(in_threads(solution, chunks)))
        weight = np.zeros((self._count, self._shape[2], values.shape[2]))
        np.put_along_axis(weight, self._kept[:, :, None], values, 1)
        return weight.transpose(0, 2, 1).reshape(self._shape)
