"""The conveyor: rails, and a belt with weave, wear, scratches, stains and swarf as an image that repeats along x."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Signed = NDArray[np.float32]

BLOCK = 12  # a belt's length is a multiple of this many units, so that its pattern closes


@dataclass(frozen=True)
class Belt:
    """`colour`: mean BGR 0..255. `weave`: "none", "cloth", "ribs" or "diamond", `period` units (8 pixels at 640x480)
    apart and `depth` gray levels deep. `wear`: 0..1."""

    colour: tuple[float, float, float]
    weave: str
    period: float
    depth: float
    wear: float
    seam: bool


_COLOURS = (
    (52, 52, 50),  # black rubber
    (84, 82, 78),  # gray rubber
    (80, 104, 62),  # green PVC
    (116, 86, 44),  # blue polyurethane
    (140, 146, 148),  # pale, for food
    (56, 68, 84),  # brown
)


def draw_belt(rng: np.random.Generator) -> Belt:
    base = _COLOURS[int(rng.choice(len(_COLOURS), p=(0.27, 0.2, 0.18, 0.14, 0.11, 0.1)))]
    lift = float(rng.uniform(0.8, 1.25))
    b, g, r = (c * lift * float(rng.uniform(0.96, 1.04)) for c in base)
    weave = ("none", "cloth", "cloth", "ribs", "diamond")[int(rng.integers(0, 5))]
    period = float(rng.uniform(3, 5) if weave == "cloth" else rng.uniform(5, 14)) / 8
    return Belt((b, g, r), weave, period, float(rng.uniform(2, 7)), float(rng.uniform(0, 1)), bool(rng.uniform() < 0.3))


def paint_belt(belt: Belt, rng: np.random.Generator, height: int, blocks: int, unit: int) -> Bytes:
    """Render uint8 BGR [height, blocks * BLOCK * unit, 3] whose right edge continues at its left edge; `unit` in
    pixels.
    """
    width = blocks * BLOCK * unit
    wide = _clouds(rng, height, width, BLOCK * unit)
    light = wide * np.float32(4 + 8 * belt.wear) + _clouds(rng, height, width, 2 * unit) * np.float32(3)
    light += _streaks(rng, height, unit) * np.float32(2 + 6 * belt.wear)
    light += _weave(belt, height, width, unit)
    light -= np.maximum(_clouds(rng, height, width, 6 * unit) + wide - np.float32(0.85), 0) * np.float32(45 * belt.wear)
    light += (rng.integers(0, 256, (height, width), np.uint8).astype(np.float32) - 128) * np.float32(0.06)
    tile = np.empty((height, width, 3), np.uint8)
    for channel, value in enumerate(belt.colour):
        tile[..., channel] = np.clip(light * np.float32(value / 110 + 0.4) + np.float32(value), 0, 255)
    _mark(tile, rng, belt, unit)
    return tile


def paint_rail(rng: np.random.Generator, height: int, width: int) -> Bytes:
    """Render uint8 BGR [height, width, 3]: a brushed metal profile along the belt, with its lip at the last row."""
    painted = float(rng.uniform()) < 0.4
    colour = (40, 130, 200) if painted and rng.uniform() < 0.5 else (130, 96, 60) if painted else (150, 150, 148)
    bands = np.repeat(rng.integers(60, 150, 4), -(-height // 4))[:height].astype(np.float32)
    edges = np.abs(np.diff(bands, prepend=bands[:1]))
    profile = bands + edges * np.float32(0.8)
    profile[-max(height // 9, 2) :] = 190
    profile[-1:] = 30
    brushed = rng.integers(-10, 11, (height, 1)).astype(np.float32) + rng.integers(-4, 5, (height, width))
    light = (profile[:, None] + brushed)[..., None] / np.float32(130)
    return np.asarray(np.clip(light * np.array(colour, np.float32), 0, 255).astype(np.uint8), np.uint8)


def _clouds(rng: np.random.Generator, height: int, width: int, cell: int) -> Signed:
    """Return smooth noise of about -1..1 with bumps of `cell` pixels; wraps along x if `cell` divides `width`."""
    rows, columns = height // cell + 2, width // cell
    grid = rng.integers(0, 65536, (rows, columns)).astype(np.uint16)
    grid = np.concatenate([grid, grid[:, :1]], axis=1)
    wide = cv2.resize(grid, ((columns + 1) * cell, rows * cell), interpolation=cv2.INTER_LINEAR_EXACT)
    part = wide[cell // 2 : cell // 2 + height, cell // 2 : cell // 2 + width]
    noise: Signed = part.astype(np.float32) * np.float32(1 / 32768) - np.float32(1)
    return noise


def _streaks(rng: np.random.Generator, height: int, unit: int) -> Signed:
    """Return wear along the direction of movement: one value per row, -1..1."""
    coarse = rng.integers(0, 65536, (height // (3 * unit) + 2, 1)).astype(np.uint16)
    rows = cv2.resize(coarse, (1, height), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.float32)
    fine = rng.integers(0, 65536, (height, 1)).astype(np.float32)
    wear: Signed = (rows.reshape(height, 1) - 32768) / np.float32(32768) + (fine - 32768) / np.float32(32768 * 4)
    return wear


def _weave(belt: Belt, height: int, width: int, unit: int) -> Signed:
    """Return the belt's surface pattern in gray levels around zero; a whole number of periods fits the width."""
    if belt.weave == "none":
        return np.zeros((1, 1), np.float32)
    count = max(round(width / (belt.period * unit)), 1)
    x = (np.arange(width) * count % (2 * width) / width).astype(np.float32)[None, :]
    y = (np.arange(height) * count % (2 * width) / width).astype(np.float32)[:, None]
    if belt.weave == "ribs":
        wave = np.abs(2 * (y % 1) - 1) * np.float32(2) - 1
    elif belt.weave == "diamond":
        wave = np.maximum(np.abs((x + y) % 2 - 1), np.abs((x - y) % 2 - 1)) * np.float32(4) - 3
    else:
        over = (x >= 1) != (y >= 1)
        wave = 1 - 2 * np.where(over, np.abs(2 * (x % 1) - 1), np.abs(2 * (y % 1) - 1))
    return np.asarray(wave * np.float32(belt.depth), np.float32)


def _mark(tile: Bytes, rng: np.random.Generator, belt: Belt, unit: int) -> None:
    """Yield light and dark scratches, drops, swarf, specks and possibly the seam, each as a gray layer."""
    bright, dark = np.zeros(tile.shape[:2], np.uint8), np.zeros(tile.shape[:2], np.uint8)
    _scratch(bright, rng, int(6 + 50 * belt.wear), unit)
    _scratch(dark, rng, int(6 + 50 * belt.wear), unit)
    _drop(dark, rng, int(rng.integers(0, 4 + int(10 * belt.wear))), unit)
    if belt.seam:
        _seam(dark, bright, rng, unit)
    dark = np.asarray(cv2.GaussianBlur(dark, (0, 0), 0.12 * unit), np.uint8)
    _curl(bright, dark, rng, int(rng.integers(0, 4 + int(14 * belt.wear))), unit)
    for layer, top in ((bright, 90), (dark, 60)):
        specks = rng.integers(0, layer.size, int(30 + 150 * belt.wear))
        layer.reshape(-1)[specks] = rng.integers(10, top, specks.size, np.uint8)
    cv2.subtract(tile, cv2.cvtColor(dark, cv2.COLOR_GRAY2BGR), tile)
    cv2.add(tile, cv2.cvtColor(bright, cv2.COLOR_GRAY2BGR), tile)


def _fixed(*values: float) -> tuple[int, ...]:
    return tuple(int(16 * value) for value in values)


def _scratch(layer: Bytes, rng: np.random.Generator, count: int, unit: int) -> None:
    height, width = layer.shape
    for _ in range(count):
        x, y, t = (float(v) for v in rng.uniform((0, 0, 0), (width, height, 1)))
        dx, dy = unit * (0.4 + 14 * t**3), unit * float(rng.uniform(-0.5, 0.5))
        depth = int(rng.integers(3, 14 + int(18 * (1 - t))))
        cv2.line(layer, _fixed(x, y), _fixed(x + dx, y + dy), (depth,), 1, cv2.LINE_AA, 4)


def _drop(layer: Bytes, rng: np.random.Generator, count: int, unit: int) -> None:
    height, width = layer.shape
    for _ in range(count):
        centre = int(rng.integers(0, width)), int(rng.integers(0, height))
        axes = int(unit * rng.uniform(0.2, 1.4)), int(unit * rng.uniform(0.2, 0.9))
        cv2.ellipse(
            layer, centre, axes, float(rng.uniform(-30, 30)), 0, 360, (int(rng.integers(5, 22)),), -1, cv2.LINE_AA
        )


def _curl(bright: Bytes, dark: Bytes, rng: np.random.Generator, count: int, unit: int) -> None:
    """Draw swarf: small bent chips, bright on one side."""
    height, width = bright.shape
    for _ in range(count):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        axes = int(unit * rng.uniform(0.15, 0.6)) + 1, int(unit * rng.uniform(0.1, 0.3)) + 1
        turn, start = float(rng.uniform(0, 360)), int(rng.integers(0, 360))
        sweep = int(rng.integers(60, 300))
        cv2.ellipse(dark, (x + 1, y + 1), axes, turn, start, start + sweep, (40,), 1, cv2.LINE_AA)
        cv2.ellipse(bright, (x, y), axes, turn, start, start + sweep, (int(rng.integers(40, 130)),), 1, cv2.LINE_AA)


def _seam(dark: Bytes, bright: Bytes, rng: np.random.Generator, unit: int) -> None:
    """Draw the seam of the belt's ends: a slanted line across."""
    height, width = dark.shape
    x = float(rng.uniform(0, width))
    lean = float(rng.uniform(-0.3, 0.3)) * height
    for layer, shift, depth in ((dark, 0.0, 30), (bright, 0.2 * unit, 16)):
        cv2.line(
            layer,
            _fixed(x + shift, -1),
            _fixed(x + lean + shift, height + 1),
            (depth,),
            max(unit // 5, 1),
            cv2.LINE_AA,
            4,
        )
