"""Position weights: means over areas, for any sizes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgesparse.sparsity.position_weights import OBJECTS, PositionWeights, resize


@pytest.mark.parametrize("size", [(13, 13), (52, 26), (5, 7), (104, 208), (1, 1)])
def test_resize_takes_the_mean_over_the_area(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).random((2, 52, 52), np.float32)
    source = resize(maps, *size)
    assert source.shape == (2, *size) and source.mean() == pytest.approx(maps.mean(), rel=1e-5)
    if 52 % size[0] == 0 and 52 % size[1] == 0:
        for weights, small in zip(maps, source, strict=True):
            by_opencv = cv2.resize(weights, size[::-1], interpolation=cv2.INTER_AREA)
            np.testing.assert_allclose(small, by_opencv, atol=1e-5)
    if size[0] % 52 == size[1] % 52 == 0:
        np.testing.assert_allclose(source[:, :: size[0] // 52, :: size[1] // 52], maps, atol=1e-5)


def test_objects_and_all_positions_share_the_weight() -> None:
    maps = np.zeros((4, 1, 64, 64), np.float32)
    maps[1, :, :16, :16] = 1
    places = PositionWeights.of(maps)
    weights = np.stack([places.weights(i, 8, 8).reshape(8, 8) for i in range(4)])
    assert weights.mean() == pytest.approx(1)
    assert (weights[[0, 2, 3]] == np.float32(1 - OBJECTS)).all()
    assert weights[1, :2, :2] == pytest.approx(np.full((2, 2), 1 - OBJECTS + OBJECTS * 64), rel=1e-5)


def test_without_objects_all_positions_count_alike() -> None:
    assert (PositionWeights.of(np.zeros((1, 2, 64, 32), np.float32)).weights(0, 4, 4) == np.ones(32)).all()
