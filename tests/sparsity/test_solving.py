"""Systems of normal equations that share a matrix: each row against NumPy's own solution."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import random

from edgesparse.sparsity import solving
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.solving import Kept, solve

PARTS, ROWS, WIDTH = 2, 5, 80


def problem(same: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """h, g and 2:4 masks, of which those of a part are the `same` or not."""
    x = random(PARTS, 2 * WIDTH, WIDTH).astype(np.float64)
    mask = mask_2to4(random(PARTS, ROWS, WIDTH, seed=1), 2)
    if same:
        mask = np.repeat(mask[:, :1], ROWS, 1)
    return x.transpose(0, 2, 1) @ x / WIDTH, random(PARTS, ROWS, WIDTH, seed=2).astype(np.float64), mask


def one_by_one(h: np.ndarray, g: np.ndarray, mask: np.ndarray) -> np.ndarray:
    weight = np.zeros_like(g)
    for part, row in np.ndindex(g.shape[:2]):
        kept = np.flatnonzero(mask[part, row])
        weight[part, row, kept] = np.linalg.solve(h[part][np.ix_(kept, kept)], g[part, row, kept])
    return weight


@pytest.fixture
def factored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what is factored."""
    shapes: list[tuple[int, ...]] = []

    class Spy(solving._Factor):
        def __init__(self, matrices: np.ndarray) -> None:
            shapes.append(matrices.shape)
            super().__init__(matrices)

    monkeypatch.setattr(solving, "_Factor", Spy)
    return shapes


@pytest.mark.parametrize("chunk", [1, 1 << 23], ids=["a system at a time", "all at once"])
@pytest.mark.parametrize("same", [False, True])
def test_each_row_is_solved_for_what_it_keeps(same: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "CHUNK", chunk)
    h, g, mask = problem(same)
    kept = Kept(h, mask)
    for right in (g, g[::-1] + 1):
        np.testing.assert_allclose(kept.solve(right), one_by_one(h, right, mask), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(solve(h[0], g[0], mask[0]), one_by_one(h, g, mask)[0], rtol=1e-9, atol=1e-12)


def test_rows_that_keep_the_same_are_one_system(factored: list[tuple[int, ...]]) -> None:
    for same, systems in ((True, PARTS), (False, PARTS * ROWS)):
        h, g, mask = problem(same)
        Kept(h, mask).solve(g)
        assert factored.pop() == (systems, WIDTH // 2, WIDTH // 2) and not factored


@pytest.mark.parametrize(("held", "times"), [(1 << 20, 1), (0, 3)])
def test_factors_are_held_while_they_fit(held: int, times: int, factored: list[tuple[int, ...]]) -> None:
    h, g, mask = problem(False)
    kept = Kept(h, mask, held)
    results = [kept.solve(g) for _ in range(3)]
    assert len(factored) == times
    np.testing.assert_array_equal(results[0], results[2])


def test_a_matrix_that_rounding_made_indefinite_is_solved_too() -> None:
    h, g, mask = problem(False)
    h -= 0.5 * np.eye(WIDTH) * np.linalg.eigvalsh(h)[:, -1:, None]
    np.testing.assert_allclose(Kept(h, mask).solve(g), one_by_one(h, g, mask), rtol=1e-6, atol=1e-9)


def test_what_keeps_nothing_is_zero() -> None:
    h, g, mask = problem(False)
    assert not Kept(h, np.zeros_like(mask)).solve(g).any()
