"""Least squares under 2:4: sums, swaps and masks against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import random

from edgesparse.sparsity import fitting
from edgesparse.sparsity.fitting import Moments, Sums, exchange, fit
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.solving import solve


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_sums_are_taken_over_all_positions(groups: int, weighed: bool) -> None:
    x, y = random(50, groups * 4), random(50, groups * 2, seed=1)
    weight = random(50, seed=2) ** 2 if weighed else None
    moments = Moments(groups, 4, 2)
    for part in (slice(0, 20), slice(20, 50)):
        moments.add(Sums.of(groups, x[part], y[part], None if weight is None else weight[part]))
    each = np.ones(50) if weight is None else weight
    assert moments.count == pytest.approx(each.sum())
    for i in range(groups):
        a, b = x[:, 4 * i : 4 * i + 4], y[:, 2 * i : 2 * i + 2]
        for source, right in (
            (moments.x[i], each @ a),
            (moments.y[i], each @ b),
            (moments.yy[i], each @ b**2),
            (moments.xx[i], (a * each[:, None]).T @ a),
            (moments.yx[i], (b * each[:, None]).T @ a),
        ):
            np.testing.assert_allclose(source, right, rtol=1e-4, atol=1e-4)


def problem(rows: int, fours: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """h [d, d], g [rows, d], a magnitude mask and the groups of four."""
    d = 4 * fours
    x, dense = random(3 * d, d, seed=seed) @ random(d, d, seed=seed + 1), random(rows, d, seed=seed + 2)
    h = (x.T @ x / len(x)).astype(np.float64) + 0.1 * np.eye(d)
    return h, dense @ h, mask_2to4(dense), np.arange(d).reshape(fours, 4)


def test_a_column_that_a_kept_one_explains_divides_by_nothing() -> None:
    """Next to large inputs the ridge is lost in float32: the second column is the first."""
    x, dense = np.array([[1, 1, 1, 1], [1, 1, -1, 1], [1, 1, 1, -1], [1, 1, -1, -1]]), random(16, 4, seed=6)
    h = x.T @ x / len(x)
    kept = np.tile([True, False, True, False], (16, 1))
    mask = exchange(h, dense @ h, kept, np.arange(4)[None], np.zeros((16, 4)))
    assert (mask.sum(1) == 2).all() and not mask[:, :2].all(1).any()


def error(h: np.ndarray, g: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """w h w' - 2 g w' of each row with its kept weights fitted."""
    weight = solve(h, g, mask)
    source: np.ndarray = np.einsum("ri,ri->r", weight @ h - 2 * g, weight)
    return source


def test_an_exchange_leaves_the_same_tableau_as_a_new_start_from_its_mask() -> None:
    h, g, mask, groups = problem(rows=5, fours=4, seed=0)
    table = fitting._Tableau(h.astype(np.float32), g.astype(np.float32), mask)
    out = np.array([groups[i % 4][mask[i, groups[i % 4]]][0] for i in range(5)])
    into = np.array([groups[i % 4][~mask[i, groups[i % 4]]][1] for i in range(5)])
    table.exchange(out, into)
    again = fitting._Tableau(h.astype(np.float32), g.astype(np.float32), table.mask)
    assert (table.mask != mask).sum() == 10
    np.testing.assert_allclose(table.a, again.a, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(table.v, again.v, rtol=2e-3, atol=2e-3)


@settings(max_examples=20)
@given(rows=st.integers(1, 6), fours=st.integers(1, 4), seed=st.integers(0, 1000))
def test_no_single_exchange_could_lower_the_error_further(rows: int, fours: int, seed: int) -> None:
    h, g, mask, groups = problem(rows, fours, seed)
    result = exchange(h, g, mask, groups, solve(h, g, mask))
    assert (result.reshape(rows, fours, 4).sum(2) == 2).all()
    least = error(h, g, result)
    assert (least <= error(h, g, mask) + 1e-6 * np.abs(least)).all()
    for group in groups:
        for row in range(rows):
            for out in group[result[row, group]]:
                for into in group[~result[row, group]]:
                    other = result[row : row + 1].copy()
                    other[0, out], other[0, into] = False, True
                    assert error(h, g[row : row + 1], other)[0] >= least[row] - 1e-4 * abs(least[row])


def test_wide_layers_are_fitted_in_blocks_and_no_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    h, g, mask, groups = problem(rows=8, fours=16, seed=7)
    whole = error(h, g, exchange(h, g, mask, groups, solve(h, g, mask))).sum()
    monkeypatch.setattr(fitting, "BLOCK", 32)
    monkeypatch.setattr(fitting, "CACHE", 1 << 12)
    parts = error(h, g, exchange(h, g, mask, groups, solve(h, g, mask))).sum()
    start = error(h, g, mask).sum()
    assert parts < start and (start - parts) > 0.5 * (start - whole)


def test_a_fit_reports_the_remaining_error() -> None:
    x = random(400, 16) @ random(16, 16, seed=1)
    y = (x @ random(6, 16, seed=2).T + 3).astype(np.float32)
    moments = Moments(1, 16, 6)
    moments.add(Sums.of(1, x, y))
    dense = random(6, 16, seed=2).astype(np.float64)
    source = fit(moments.normal(0, True), dense, np.arange(16).reshape(4, 4), mask_2to4(dense))
    left = ((x @ source.weight.T + source.bias - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert source.error == pytest.approx(left, rel=0.05) and 0 < source.error < 0.5
    assert (source.weight[~source.mask] == 0).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_inputs_that_are_nearly_alike_never_make_a_fit_worse(seed: int) -> None:
    """All columns are one, but for a thousandth: float32 does not tell exchanges apart."""
    x = random(64, 1, seed=seed) + 1e-3 * random(64, 16, seed=seed + 1)
    dense = random(8, 16, seed=seed + 2).astype(np.float64)
    h = (x.T @ x / len(x)).astype(np.float64)
    normal = fitting.Normal(h, dense @ h, np.einsum("ri,ij,rj->r", dense, h, dense), np.zeros(16), np.zeros(8))
    mask = mask_2to4(dense)
    none_of_four, fours = np.empty((0, 4), np.intp), np.arange(16).reshape(4, 4)
    errors = [fit(normal, dense, groups, mask).error for groups in (none_of_four, fours)]
    assert errors[1] <= errors[0]
