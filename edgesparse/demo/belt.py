"""The conveyor belt: weave, wear, scratches, stains and dust as one picture that repeats along x."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Signed = NDArray[np.float32]


@dataclass(frozen=True)
class Belt:
    """`colour`: mean BGR 0..255. `weave`: period in pixels (0: smooth) and `depth`: its contrast. `wear`: 0..1."""

    colour: tuple[float, float, float]
    weave: int
    depth: float
    wear: float


_COLOURS = (
    (52, 52, 50),  # black rubber
    (78, 76, 72),  # grey rubber
    (70, 98, 44),  # green PVC
    (112, 84, 44),  # blue polyurethane
    (150, 156, 158),  # pale, for food
    (56, 68, 84),  # brown
)


def draw_belt(rng: np.random.Generator) -> Belt:
    base = _COLOURS[int(rng.choice(len(_COLOURS), p=(0.3, 0.2, 0.18, 0.14, 0.08, 0.1)))]
    lift = float(rng.uniform(0.8, 1.2))
    b, g, r = (c * lift * float(rng.uniform(0.94, 1.06)) for c in base)
    return Belt((b, g, r), int(rng.choice((0, 3, 4, 4, 6, 8))), float(rng.uniform(2, 7)), float(rng.uniform(0.2, 1)))


def paint_belt(belt: Belt, rng: np.random.Generator, height: int, width: int) -> Bytes:
    """uint8 [height, width, 3] BGR whose right edge continues at its left edge."""
    light = _clouds(rng, height, width, 96) * 8 * belt.wear + _clouds(rng, height, width, 12) * 4
    light += _streaks(rng, height) * 7 * belt.wear
    light += _weave(belt, height, width)
    light += (rng.integers(0, 256, (height, width), np.uint8).astype(np.float32) - 128) * np.float32(0.05)
    tile = np.empty((height, width, 3), np.uint8)
    for channel, value in enumerate(belt.colour):
        tile[..., channel] = np.clip(light * np.float32(value / 70 * 0.6 + 0.4) + np.float32(value), 0, 255)
    _stain(tile, rng, belt)
    _scratch(tile, rng, belt)
    return tile


def _clouds(rng: np.random.Generator, height: int, width: int, cell: int) -> Signed:
    """Smooth noise of about -1..1, `cell` pixels a bump; wraps along x."""
    rows, columns = height // cell + 2, max(width // cell, 2)
    grid = rng.integers(0, 65536, (rows, columns)).astype(np.uint16)
    grid = np.concatenate([grid, grid[:, :1]], axis=1)
    step = -(-width // columns)
    wide = cv2.resize(grid, ((columns + 1) * step, rows * cell), interpolation=cv2.INTER_LINEAR_EXACT)
    part = wide[cell // 2 : cell // 2 + height, step // 2 : step // 2 + width]
    return part.astype(np.float32) * np.float32(1 / 32768) - np.float32(1)


def _streaks(rng: np.random.Generator, height: int) -> Signed:
    """Wear along the movement: one value a row."""
    coarse = rng.integers(0, 65536, (height // 24 + 2, 1)).astype(np.uint16)
    rows = cv2.resize(coarse, (1, height), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.float32)
    fine = rng.integers(0, 65536, (height, 1)).astype(np.float32)
    return (rows.reshape(height, 1) - 32768) / np.float32(32768) + (fine - 32768) / np.float32(32768 * 4)


def _weave(belt: Belt, height: int, width: int) -> Signed:
    if not belt.weave:
        return np.zeros((height, width), np.float32)
    period = belt.weave
    x, y = np.arange(width) % period, np.arange(height) % period
    ramp_x = np.abs(x * 2.0 / period - 1).astype(np.float32)
    ramp_y = np.abs(y * 2.0 / period - 1).astype(np.float32)
    over = ((np.arange(width) // period)[None, :] + (np.arange(height) // period)[:, None]) % 2 == 0
    return np.where(over, ramp_x[None, :], ramp_y[:, None]) * np.float32(-2 * belt.depth) + np.float32(belt.depth)


def _stain(tile: Bytes, rng: np.random.Generator, belt: Belt) -> None:
    height, width = tile.shape[:2]
    shade = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(2, 4 + int(8 * belt.wear)))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(4, 40)), int(rng.integers(3, 18)))
        cv2.ellipse(shade, centre, axes, float(rng.uniform(-20, 20)), 0, 360, (int(rng.integers(20, 70)),), -1)
    soft = cv2.GaussianBlur(shade, (0, 0), 5)
    cv2.multiply(tile, cv2.cvtColor(255 - soft, cv2.COLOR_GRAY2BGR), tile, 1 / 255)


def _scratch(tile: Bytes, rng: np.random.Generator, belt: Belt) -> None:
    height, width = tile.shape[:2]
    marks = np.zeros((height, width), np.uint8)
    for _ in range(int(10 + 50 * belt.wear)):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        dx, dy = float(rng.uniform(5, 120)), float(rng.uniform(-6, 6))
        ends = [(int(16 * px), int(16 * py)) for px, py in ((x, y), (x + dx, y + dy))]
        cv2.line(marks, ends[0], ends[1], (int(rng.integers(6, 34)),), 1, cv2.LINE_AA, 4)
    specks = rng.integers(0, height * width, int(60 + 200 * belt.wear))
    marks.reshape(-1)[specks] = rng.integers(10, 70, specks.size, np.uint8)
    cv2.add(tile, cv2.cvtColor(marks, cv2.COLOR_GRAY2BGR), tile)
