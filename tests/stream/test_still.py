"""An image that does not change by a bit is an old one; one that changes by a single bit is not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.stream.sources.still import Stillness

SECOND = 1_000_000_000


def seen(images: list[np.ndarray], limit: float = 2.0, period: float = 0.1) -> list[bool]:
    still = Stillness()
    return [still.see(image, int(number * period * SECOND), limit) for number, image in enumerate(images)]


@pytest.mark.parametrize("size", [(1080, 1920), (360, 640), (40, 30), (1, 1)])
def test_the_same_image_for_two_seconds(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert seen([image.copy() for _ in range(25)]) == [False] * 20 + [True] * 5


@given(st.integers(0, 359), st.integers(0, 639), st.integers(0, 2), st.integers(12, 18))
def test_one_bit_anywhere_is_a_change(row: int, column: int, channel: int, when: int) -> None:
    images = [np.zeros((360, 640, 3), np.uint8) for _ in range(25)]
    for image in images[when:]:
        image[row, column, channel] = 1
    assert not any(seen(images))


def test_an_image_that_moves_again_is_new() -> None:
    old, new = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 9, np.uint8)
    assert seen([old] * 25 + [new] + [old] * 5)[25:] == [False] * 6


def test_another_size_is_new() -> None:
    assert not any(seen([np.zeros((64 + n % 2, 64, 3), np.uint8) for n in range(60)]))


def test_an_image_of_full_size_costs_little() -> None:
    """Far less than a camera's 33 ms, on any machine: only a sample is looked at."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (1080, 1920, 3), np.uint8) for _ in range(2)]
    still = Stillness()
    begun = time.process_time()
    for number in range(100):
        still.see(images[number % 2], number, 2.0)
    assert time.process_time() - begun < 1.0
