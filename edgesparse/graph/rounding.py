"""Weights on their INT8 grid, rounded so that the layer puts out what it did, not so that each weight is nearest.

A layer is y = W x + b. With the means over positions of x x' and y x' the squared error of any W on any input is known
without the data: w H w' - 2 g w' a row, and a constant. Starting from the nearest grid points, one weight at a time
takes the grid point that is best given all others, until none moves: cyclic coordinate descent, as QuantEase has it
(Behdin et al., 2023, arXiv:2309.01885). The error falls with every step, so it never ends worse than it began.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesparse.graph.unfold import Product
from edgesparse.graph.wiring import Array

Matrix = npt.NDArray[np.float64]
TOP = 127
RIDGE = 1e-3
"""How much the descent holds on to the float weights, as a share of the inputs' mean square."""
SWEEPS = 20
"""At most so many rounds over all weights; it ends when none moves, mostly after about ten."""
BLOCK = 128
"""Columns that are worked on together; what they change for all others follows in one product."""


class Sums:
    """Of a layer in `parts` groups, each [inputs d -> outputs r]: sums over positions of x, y, x x', y x' and y y'."""

    def __init__(self, parts: int, outputs: int, inputs: int) -> None:
        self.count = 0
        self.x, self.y = np.zeros((parts, inputs)), np.zeros((parts, outputs))
        self.xx, self.yx = np.zeros((parts, inputs, inputs)), np.zeros((parts, outputs, inputs))
        self.yy = np.zeros((parts, outputs))

    @classmethod
    def of(cls, work: Product) -> Sums:
        """For the layer `work`, nothing added yet."""
        outputs, columns = work.matrix.shape
        return cls(work.parts, outputs // work.parts, columns)

    def add(self, x: Array, y: Array) -> None:
        """`x` [positions, parts x d] and `y` [positions, parts x r], float32."""
        parts = len(self.x)
        x, y = (np.ascontiguousarray(v.reshape(len(v), parts, -1).transpose(1, 0, 2)) for v in (x, y))
        turned = x.transpose(0, 2, 1)
        self.count += x.shape[1]
        self.x += x.sum(1, dtype=np.float64)
        self.y += y.sum(1, dtype=np.float64)
        self.xx += turned @ x
        self.yx += (turned @ y).transpose(0, 2, 1)
        self.yy += np.einsum("kpr,kpr->kr", y, y, dtype=np.float64)

    def normal(self, intercept: bool) -> tuple[Matrix, Matrix, Matrix]:
        """Means of x x', y x' and y y', about the means of x and y where the layer has a bias to take these up."""
        x, y = (self.x / self.count, self.y / self.count) if intercept else (0 * self.x, 0 * self.y)
        xx = self.xx / self.count
        xx -= x[:, :, None] * x[:, None, :]
        yx = self.yx / self.count - y[:, :, None] * x[:, None, :]
        return xx, yx, np.maximum(self.yy / self.count - y * y, 0)

    def bias(self, weight: Matrix) -> Matrix:
        """The bias [parts x r] with which `weight` [parts x r, d] meets the mean of y."""
        mean = np.einsum("krd,kd->kr", weight.reshape(*self.y.shape, -1), self.x)
        bias: Matrix = ((self.y - mean) / self.count).ravel()
        return bias


@dataclass(frozen=True)
class Rounded:
    """`weight` [r, d] on the grid of `scale` [r]; `error` and `nearest`, those of the weights rounded to the nearest,
    are squared and as a share of y's variance (of its squares for a layer without a bias)."""

    weight: Matrix
    scale: npt.NDArray[np.float32]
    error: float
    nearest: float


def round_weights(sums: Sums, dense: Matrix, intercept: bool) -> Rounded:
    """`dense` [parts x r, d] on its INT8 grid, one scale a row, with the least error on what `sums` saw.

    A row's scale is its largest magnitude over 127, and weights that are nought stay nought.
    """
    scale = (np.abs(dense).max(1) / TOP).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1
    h, g, yy = sums.normal(intercept)
    shape = g.shape
    target, steps = dense.reshape(shape), scale.astype(np.float64).reshape(*shape[:2], 1)
    nearest = np.clip(np.rint(target / steps), -TOP, TOP)
    found = descend(h, g, target, nearest, steps)
    errors = [_error(h, g, yy, grid * steps) for grid in (found, nearest)]
    if errors[0] > errors[1]:  # the ridge can hold on to the float weights more than the data ask for
        found, errors[0] = nearest, errors[1]
    return Rounded((found * steps).reshape(dense.shape), scale, *errors)


def descend(h: Matrix, g: Matrix, target: Matrix, start: Matrix, scale: Matrix) -> Matrix:
    """Grid points [k, r, d] that lower the squared error from that of `start`; where `target` is nought, nought.

    Points at the grid's end stay, so that who sees the weights alone finds the same grid: their largest over 127.
    `h` [k, d, d] and `g` [k, r, d] are the means of x x' and y x', `scale` [k, r, 1] the grid's steps.
    """
    ridge = RIDGE * np.maximum(np.trace(h, axis1=1, axis2=2) / h.shape[1], 1e-12)[:, None]
    diagonal, h = np.arange(h.shape[1]), h.copy()
    h[:, diagonal, diagonal] += ridge
    g = g + ridge[..., None] * target
    grid, free = start.copy(), (target != 0) & (np.abs(start) < TOP)
    gradient = g - (grid * scale) @ h
    for _ in range(SWEEPS):
        moved = 0.0
        for first in range(0, h.shape[1], BLOCK):
            part = np.s_[..., first : first + BLOCK]
            before = grid[part].copy()
            _sweep(h[:, part[1], part[1]], gradient[part].copy(), grid[part], free[part], scale)
            change = (grid[part] - before) * scale
            gradient -= change @ h[:, part[1]]
            moved += float(np.abs(change).sum())
        if not moved:
            break
    return grid


def _sweep(h: Matrix, gradient: Matrix, grid: Matrix, free: npt.NDArray[np.bool_], scale: Matrix) -> None:
    """One round over a block of columns: `grid` moves, in place, by what `gradient` asks for as it goes."""
    for j in range(h.shape[1]):
        curvature = h[:, None, j, j] * scale[..., 0]
        best = np.clip(np.rint(grid[..., j] + gradient[..., j] / curvature), -TOP, TOP)
        step = np.where(free[..., j], best - grid[..., j], 0)
        if step.any():
            grid[..., j] += step
            gradient -= (step[..., None] * scale) * h[:, None, j, :]


def _error(h: Matrix, g: Matrix, yy: Matrix, weight: Matrix) -> float:
    left = np.einsum("krd,krd->kr", weight @ h - 2 * g, weight) + yy
    return float(np.maximum(left, 0).sum() / max(yy.sum(), 1e-30))
