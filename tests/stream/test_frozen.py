"""A bit-identical image counts as frozen; one that changes by a single bit does not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.stream.sources.frozen import FreezeDetector

SECOND = 1_000_000_000


def frozen(images: list[np.ndarray], limit: float = 2.0, period: float = 0.1) -> list[bool]:
    detector = FreezeDetector()
    return [detector.is_frozen(image, int(number * period * SECOND), limit) for number, image in enumerate(images)]


@pytest.mark.parametrize("size", [(1080, 1920), (360, 640), (40, 30), (1, 1)])
def test_the_same_image_for_two_seconds_is_frozen(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert frozen([image.copy() for _ in range(25)]) == [False] * 20 + [True] * 5


@given(st.integers(0, 359), st.integers(0, 639), st.integers(0, 2), st.integers(12, 18))
def test_a_single_bit_anywhere_is_a_change(row: int, column: int, channel: int, when: int) -> None:
    images = [np.zeros((360, 640, 3), np.uint8) for _ in range(25)]
    for image in images[when:]:
        image[row, column, channel] = 1
    assert not any(frozen(images))


def test_an_image_that_moves_again_is_not_frozen() -> None:
    old, new = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 9, np.uint8)
    assert frozen([old] * 25 + [new] + [old] * 5)[25:] == [False] * 6


def test_an_image_of_another_size_is_not_frozen() -> None:
    assert not any(frozen([np.zeros((64 + n % 2, 64, 3), np.uint8) for n in range(60)]))


def test_a_large_image_costs_little() -> None:
    """Far less than a camera's 33 ms on any machine, since only samples are compared."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (1080, 1920, 3), np.uint8) for _ in range(2)]
    detector = FreezeDetector()
    started = time.process_time()
    for number in range(100):
        detector.is_frozen(images[number % 2], number, 2.0)
    assert time.process_time() - started < 1.0
