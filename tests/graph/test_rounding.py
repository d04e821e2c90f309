"""Rounding to the INT8 grid: on it, never worse than the nearest, zeros stay, and the mean is met."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.graph.rounding import Sums, round_weights

Floats = NDArray[np.float32]


def seen(
    parts: int, outputs: int, inputs: int, seed: int, alike: float = 0.9
) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Inputs that resemble each other, what a layer makes of them, and its weights."""
    noise = np.random.default_rng(seed)
    common = noise.standard_normal((400, parts, 1))
    x = (alike * common + (1 - alike) * noise.standard_normal((400, parts, inputs)) + 0.7).astype(np.float32)
    weight = noise.standard_normal((parts, outputs, inputs)) * noise.uniform(0.01, 3, (parts, outputs, 1))
    y = np.einsum("pki,kri->pkr", x, weight) + 2.0
    return x.reshape(400, -1), y.reshape(400, -1).astype(np.float32), weight.reshape(parts * outputs, inputs)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 12), st.integers(0, 10_000), st.booleans())
def test_on_the_grid_and_never_worse_than_the_nearest(
    parts: int, outputs: int, inputs: int, seed: int, bias: bool
) -> None:
    x, y, weight = seen(parts, outputs, inputs, seed)
    weight[:, ::3] = 0
    sums = Sums(parts, outputs, inputs)
    sums.add(x[:150], y[:150])
    sums.add(x[150:], y[150:])
    found = round_weights(sums, weight, bias)
    steps = found.weight / found.scale[:, None]
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    rows = np.abs(steps).max(1)
    assert (np.isclose(rows, 127) | (rows == 0)).all()  # the weights alone tell their grid
    assert (found.weight[:, ::3] == 0).all()
    assert found.error <= found.nearest + 1e-12


def test_error_is_what_is_measured() -> None:
    x, y, weight = seen(1, 5, 24, seed=3, alike=0.5)
    sums = Sums(1, 5, 24)
    sums.add(x, y)
    found = round_weights(sums, weight, True)
    nearest = np.rint(weight / found.scale[:, None]) * found.scale[:, None]
    for grid, said in ((found.weight, found.error), (nearest, found.nearest)):
        left = y - x @ grid.T - sums.bias(grid)
        assert said == pytest.approx((left**2).mean(0).sum() / y.var(0).sum(), rel=1e-2)
        np.testing.assert_allclose(left.mean(0), 0, atol=1e-4)
    assert found.error < found.nearest


def test_correlated_inputs_are_what_it_lives_on() -> None:
    """Blocks of columns do not hinder: far more inputs than one block holds."""
    x, y, weight = seen(1, 3, 300, seed=5)
    sums = Sums(1, 3, 300)
    sums.add(x, y)
    found = round_weights(sums, weight, True)
    assert found.error < 0.2 * found.nearest


def test_rows_and_inputs_of_zeros_are_no_harm() -> None:
    x, y, weight = seen(2, 3, 9, seed=7)
    weight[1] = 0
    x[:, :9] = 0
    sums = Sums(2, 3, 9)
    sums.add(x, y)
    found = round_weights(sums, weight, True)
    assert np.isfinite(found.weight).all() and found.scale[1] == 1 and not found.weight[1].any()
