"""Least squares under 2:4: which two of every four weights to keep, and their best values.

A layer is y = W x + b. The sums over all positions of x x' and y x' give the squared error of any W without the data.
`fit` searches the mask by exchanging one kept weight for one dropped weight of a group while that lowers the error,
refitting all other kept weights each time: the second-order cost of Optimal Brain Surgeon (Hassibi and Stork, 1993),
as SparseGPT (Frantar and Alistarh, 2023, arXiv:2301.00774) uses it for 2:4, except that a choice can be reverted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgesparse.model.threads import in_threads
from edgesparse.sparsity.solving import Mask, Matrix, Single, solve

RIDGE = 1e-3
"""Strength of the pull towards the dense weights, as a share of the inputs' mean square."""
BLOCK = 256
"""Most columns whose mask is decided at once; time and memory grow with its square."""
CACHE = 1 << 21
"""Bytes of tableaux processed at a time: about the size of a processor's cache."""
ROUNDS = 4
"""Most exchanges per group of four; less than one is usual."""
TOLERANCE = 1e-7
"""Smallest gain of an exchange, as a share of what the weights explain: less is lost in float32."""

LEAST_CURVATURE = 1e-6
"""What is left of a column, whose square is 1, that the kept ones explain but for rounding in float32."""


class Sums(NamedTuple):
    """Sums over positions: their number, x, y, y y, x x' and y x', for each group of a convolution.

    Inputs x [groups, d], targets y [groups, r].
    """

    positions: float
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    yy: npt.NDArray[Any]
    xx: npt.NDArray[Any]
    yx: npt.NDArray[Any]

    @classmethod
    def of(cls, groups: int, x: Single, y: Single, weight: Single | None = None) -> Sums:
        """Of one batch, in float32: `x` [positions, groups x d], `y` [positions, groups x r].

        `weight` [positions]: how often each position counts; once by default.
        """
        root = np.ones(len(x), np.float32) if weight is None else np.sqrt(weight)
        # both sides are weighted equally, so that BLAS computes only half of the symmetric x x'
        wx, wy = (x, y) if weight is None else (x * root[:, None], y * root[:, None])
        count = float(np.square(root, dtype=np.float64).sum())
        sum_x, sum_y, sum_yy = (v.reshape(groups, -1) for v in (root @ wx, root @ wy, np.square(wy).sum(0)))
        return cls(count, sum_x, sum_y, sum_yy, _products(wx, wx, groups), _products(wy, wx, groups))


class Moments:
    """The sums over all batches added, in float64."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.count = 0.0
        self.x, self.y, self.yy = np.zeros((groups, inputs)), np.zeros((groups, outputs)), np.zeros((groups, outputs))
        self.xx, self.yx = np.zeros((groups, inputs, inputs)), np.zeros((groups, outputs, inputs))

    def add(self, sums: Sums) -> None:
        self.count += sums.positions
        for total, part in zip((self.x, self.y, self.yy, self.xx, self.yx), sums[1:], strict=True):
            total += part

    def normal(self, group: int, intercept: bool) -> Normal:
        """Center on the means of x and y if the layer has a bias that absorbs them, else on zero."""
        x, y = (sums[group] / self.count * intercept for sums in (self.x, self.y))
        xx, yx = self.xx[group] / self.count - np.outer(x, x), self.yx[group] / self.count - np.outer(y, x)
        return Normal(xx, yx, self.yy[group] / self.count - y * y, x, y)


def _products(a: Single, b: Single, groups: int) -> Single:
    """a' b of each group, [groups, columns of a, columns of b]."""
    if groups == 1:
        return (a.T @ b)[None]
    left, right = (values.reshape(len(values), groups, -1) for values in (a, b))
    products: Single = np.matmul(left.transpose(1, 2, 0), right.transpose(1, 0, 2))
    return products


class Normal(NamedTuple):
    """Means over positions of x x' [d, d], y x' [r, d] and y y [r], centered on `x` [d] and `y` [r]."""

    xx: Matrix
    yx: Matrix
    yy: Matrix
    x: Matrix
    y: Matrix


@dataclass(frozen=True)
class Fit:
    """`weight` and `mask` [r, d], `bias` [r] (zero without intercept), squared error as a share of y's variance."""

    weight: Matrix
    mask: Mask
    bias: Matrix
    error: float


def fit(normal: Normal, dense: Matrix, groups: npt.NDArray[np.intp], mask: Mask) -> Fit:
    """The 2:4 weights that come closest to the targets, and their bias.

    `dense` [r, d]: the weights that the fit is pulled towards. `groups` [n, 4]: the columns of each group of four.
    `mask` [r, d]: the start, True where a weight stays, two per group. Without groups the mask is not changed.
    """
    h, g, yy = normal.xx.copy(), normal.yx.copy(), normal.yy
    ridge = ridge_of(h)
    h[np.diag_indices_from(h)] += ridge
    g += ridge * dense
    weight = solve(h, g, mask)
    if len(groups):
        candidate = exchange(h, g, mask, groups, weight)
        refitted = solve(h, g, candidate)
        # exchanges are chosen in float32, where inputs that are nearly alike can hide a loss
        better = _explained(refitted, g) > _explained(weight, g)
        mask, weight = np.where(better, candidate, mask), np.where(better, refitted, weight)
    left = np.einsum("ri,ri->r", weight @ h - 2 * g, weight) + yy + ridge * np.einsum("ri,ri->r", dense, dense)
    return Fit(weight, mask, normal.y - weight @ normal.x, float(left.sum() / max(yy.sum(), 1e-30)))


def _explained(weight: Matrix, g: Matrix) -> Matrix:
    """By how much the weights of each row [r, d], solved for their mask, lower w h w' - 2 g w' from its value at zero:
    [r, 1].
    """
    explained: Matrix = np.einsum("ri,ri->r", weight, g)[:, None]
    return explained


def ridge_of(h: Matrix) -> float:
    """What is added to the diagonal of `h` [d, d]."""
    return RIDGE * max(float(np.trace(h)) / len(h), 1e-12)


def exchange(h: Matrix, g: Matrix, mask: Mask, groups: npt.NDArray[np.intp], weight: Matrix) -> Mask:
    """`mask` after exchanging kept for dropped weights, within groups, while that lowers w h w' - 2 g w'.

    `weight` [r, d]: what `solve` returns for `mask`. Wide layers are processed in blocks of columns, each with the
    other blocks' weights fixed.
    """
    mask, weight = mask.copy(), weight.copy()
    blocks = np.array_split(groups, -(-groups.size // BLOCK))
    for block in blocks:
        columns, local = np.unique(block, return_inverse=True)
        weight[:, columns] = 0
        target = g[:, columns] - weight @ h[:, columns]
        inner = h[np.ix_(columns, columns)]
        mask[:, columns] = _exchange_block(inner, target, mask[:, columns], local.reshape(block.shape))
        if len(blocks) > 1:
            weight[:, columns] = solve(inner, target, mask[:, columns])
    return mask


def _exchange_block(h: Matrix, g: Matrix, mask: Mask, groups: npt.NDArray[np.intp]) -> Mask:
    """In float32, with columns scaled alike first: the same masks as in float64, in two thirds of the time."""
    scale = 1 / np.sqrt(np.diag(h))
    scaled = (h * scale * scale[:, None]).astype(np.float32)
    target = (g * scale).astype(np.float32)
    count = max(1, CACHE // scaled.nbytes)

    def part(first: int) -> Mask:
        rows = slice(first, first + count)
        return _exchange_rows(_Tableau(scaled, target[rows], mask[rows]), groups)

    return np.concatenate(list(in_threads(part, range(0, len(g), count))))


def _exchange_rows(table: _Tableau, groups: npt.NDArray[np.intp]) -> Mask:
    """Per row, repeat the exchange that lowers the error most, until none does or rounding makes it cycle."""
    result = table.mask.copy()
    rows = np.arange(len(result))
    least = TOLERANCE * np.maximum(1e-30, np.abs(table.explained()))
    for _ in range(ROUNDS * len(groups)):
        order = np.argsort(~table.mask[:, groups], axis=2, kind="stable")
        sides = groups[np.arange(len(groups))[None, :, None], order]
        change = table.changes(sides[:, :, :2], sides[:, :, 2:]).reshape(len(rows), -1)
        best = change.argmin(1)
        better = change[np.arange(len(rows)), best] < -least
        result[rows[~better]] = table.mask[~better]
        rows, least, best, sides = rows[better], least[better], best[better], sides[better]
        if not len(rows):
            return result
        table.keep_rows(better)
        group, pair = np.divmod(best, 4)
        each = np.arange(len(rows))
        table.exchange(sides[each, group, pair // 2], sides[each, group, 2 + pair % 2])
    result[rows] = table.mask
    return result


class _Tableau:
    """The normal equations of each row, swept on the kept weights (the sweep operator: Goodnight, 1979).

    Between kept columns `a` holds minus the inverse of h, between dropped columns h after the kept weights are fitted,
    and across them the regression of dropped on kept; `v` holds the kept weights, and for dropped ones the gradient.
    The cost of any exchange can be read off, and a pivot updates everything in d * d steps.
    """

    def __init__(self, h: Single, g: Single, mask: Mask) -> None:
        kept = np.nonzero(mask)[1].reshape(len(mask), -1)
        row = np.arange(len(mask))[:, None]
        lines = h[kept]
        inverse = np.linalg.inv(np.take_along_axis(lines, kept[:, None, :], 2))
        across = inverse @ lines
        self.a = h - lines.transpose(0, 2, 1) @ across
        np.put_along_axis(across, kept[:, None, :], -inverse, 2)
        self.a[row, kept] = across
        self.a = np.where(mask[:, None, :], self.a.transpose(0, 2, 1), self.a)
        fitted = np.einsum("rij,rj->ri", inverse, np.take_along_axis(g, kept, 1))
        self.v = g - np.einsum("rij,ri->rj", lines, fitted)
        self.v[row, kept] = fitted
        self.mask = mask.copy()
        self._g = g

    def explained(self) -> Single:
        """By how much the kept weights lower w h w' - 2 g w' from its value at zero."""
        lowered: Single = np.einsum("ri,ri->r", self.v * self.mask, self._g)
        return lowered

    def changes(self, kept: npt.NDArray[np.intp], dropped: npt.NDArray[np.intp]) -> Single:
        """How each exchange of one of two `kept` for one of two `dropped` [rows, groups, 2] changes the error."""
        row = np.arange(len(kept))[:, None, None]
        out, gain = self.a[row, kept, kept], self.v[row, kept] ** 2
        across = self.a[row[..., None], kept[..., None], dropped[:, :, None, :]]
        step = self.v[row, kept] / out
        gradient = self.v[row, dropped][:, :, None, :] - across * step[..., None]
        curvature = self.a[row, dropped, dropped][:, :, None, :] - across**2 / out[..., None]
        # an explained column gains nothing, and a pivot on what rounding leaves of it would make all values meaningless
        gained = np.where(curvature < LEAST_CURVATURE, 0, gradient**2 / np.maximum(curvature, LEAST_CURVATURE))
        change: Single = -(gain / out)[..., None] - gained
        return change

    def keep_rows(self, rows: Mask) -> None:
        if not rows.all():
            self.a, self.v, self.mask = self.a[rows], self.v[rows], self.mask[rows]

    def exchange(self, out: npt.NDArray[np.intp], into: npt.NDArray[np.intp]) -> None:
        """In each row replace the weight of column `out` by that of column `into`: two sweeps in one pass."""
        row = np.arange(len(out))
        leaving = self.a[row, out]
        leaves = leaving / leaving[row, out, None]
        entering = self.a[row, into] - leaves[row, into, None] * leaving
        entering[row, out] = -leaves[row, into]
        enters = entering / entering[row, into, None]
        self.a -= np.stack((leaves, enters), 2) @ np.stack((leaving, entering), 1)
        value = self.v[row, out]
        self.v -= leaves * value[:, None]
        self.v[row, out] = -value / leaving[row, out]
        value = self.v[row, into]
        self.v -= enters * value[:, None]
        self.v[row, into] = value / entering[row, into]
        leaves *= -1
        leaves[row, out] = -1 / leaving[row, out]
        leaves -= enters[row, out, None] * entering
        enters[row, into] = -1 / entering[row, into]
        for column, line in ((out, leaves), (into, enters)):
            self.a[row, column] = line
            self.a[row, :, column] = line
        self.mask[row, out], self.mask[row, into] = False, True
