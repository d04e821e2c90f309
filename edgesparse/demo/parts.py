"""The shapes of the demo's metal parts: height fields, stored as maps of normals, occlusion and coverage.

Everything here is a pure function of (class, variant). Transcendental functions run in float64 and their results are
rounded to 8 bits, so that the maps do not depend on the SIMD level of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES: tuple[str, ...] = ("bolt", "nut", "washer", "gear", "spring")
VARIANTS = 8

Float = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_GRID = 512  # shapes are drawn on this grid and downsampled by two
_REACH = 236.0  # half of a part's longest side on this grid
_Y, _X = np.mgrid[0:_GRID, 0:_GRID] - (_GRID - 1) / 2
_R = np.sqrt(_X * _X + _Y * _Y)


@dataclass(frozen=True)
class Model:
    """`levels`: uint8 [s,s,4] for s = 256, 128, 64; channels are the normal's x and y (128 + 127 n), ambient occlusion
    (255 = open) and coverage. `half`: half width and height at the first level, in pixels. `rise`: height of the part
    as a fraction of its longest side.
    """

    levels: tuple[Bytes, ...]
    half: tuple[float, float]
    rise: float

    @property
    def longest(self) -> float:
        """Longest side at the first level, in pixels."""
        return 2 * max(self.half)


@dataclass(frozen=True)
class _Solid:
    height: Float
    mask: Mask
    grain: float = 0.02  # roughness of the surface: standard deviation of the normal's x and y
    lathe: float = 0.0  # amplitude of concentric turning marks
    dish: float = 0.0  # slope of the whole face towards the center


@cache
def model(class_id: int, variant: int) -> Model:
    """Return the maps of one shape; `variant` is 0..VARIANTS-1."""
    rng = np.random.Generator(np.random.PCG64([class_id, variant]))
    return _bake(_BUILDERS[class_id](variant, rng), rng)


def _bake(solid: _Solid, rng: np.random.Generator) -> Model:
    height = np.where(solid.mask, solid.height, 0.0)
    slopes = np.gradient(height - 0.6 * _scratches(rng))
    rings = rng.integers(-256, 257, _GRID)[(_R / 2.5).astype(np.int64)] / 256
    marks = (solid.lathe * rings + solid.dish * _R / _REACH) / np.maximum(_R, 1)
    gx = slopes[1] + marks * _X
    gy = slopes[0] + marks * _Y
    length = np.sqrt(gx * gx + gy * gy + 1)
    shade = _occlusion(height) * _grime(rng)
    normal = [_halve(-g / length) + solid.grain * _grain(rng) for g in (gx, gy)]
    cover = 255 * _halve(solid.mask.astype(np.float64))
    channels = [*(128 + 127 * np.clip(n, -1, 1) for n in normal), _halve(shade), cover]
    top = np.ascontiguousarray(np.stack([np.rint(c) for c in channels], axis=-1).astype(np.uint8))
    levels = [top]
    while levels[-1].shape[0] > 64:
        side = levels[-1].shape[0] // 2
        levels.append(np.asarray(cv2.resize(levels[-1], (side, side), interpolation=cv2.INTER_AREA), np.uint8))
    ys, xs = np.nonzero(top[..., 3] > 127)
    half = (float(xs.max() - xs.min() + 1) / 2, float(ys.max() - ys.min() + 1) / 2)
    return Model(tuple(levels), half, float(height.max()) / (2 * _REACH))


def _grain(rng: np.random.Generator) -> Float:
    """Return fine noise with unit deviation; integers keep it exact."""
    return np.asarray((rng.integers(0, 256, (4, _GRID // 2, _GRID // 2)).sum(axis=0) - 510) / 148, np.float64)


def _scratches(rng: np.random.Generator) -> Float:
    """Return the depth of scratches in pixels."""
    marks = np.zeros((_GRID, _GRID), np.uint8)
    for _ in range(32):
        x, y, length = (float(v) for v in rng.uniform((0, 0, 20), (_GRID, _GRID, 160)))
        angle = float(rng.uniform(0, math.pi))
        end = int(16 * (x + length * math.cos(angle))), int(16 * (y + length * math.sin(angle)))
        cv2.line(marks, (int(16 * x), int(16 * y)), end, (int(rng.integers(20, 255)),), 2, cv2.LINE_AA, 4)
    return marks / 255.0


def _grime(rng: np.random.Generator) -> Float:
    """Return blotches of oil and dust, as the share of light that they reflect, 0.72..1."""
    share = np.zeros((_GRID, _GRID))
    for cells, weight in ((6, 0.5), (20, 0.3), (64, 0.2)):
        grid = rng.integers(0, 65536, (cells, cells)).astype(np.uint16)
        share += weight / 65535 * cv2.resize(grid, (_GRID, _GRID), interpolation=cv2.INTER_LINEAR_EXACT)
    return 1 - 0.6 * np.clip(share - 0.45, 0, 0.45)


def _halve(a: Float) -> Float:
    return (a[0::2, 0::2] + a[1::2, 0::2] + a[0::2, 1::2] + a[1::2, 1::2]) / 4


def _occlusion(height: Float) -> Float:
    """Return occlusion, 0..255: darker where the surroundings are higher (difference to a blurred height)."""
    peak = max(float(height.max()), 1.0)
    low = np.rint(height * (255 / peak)).astype(np.uint8)
    wide = cv2.GaussianBlur(low, (0, 0), 9).astype(np.float64)
    shade = np.clip(255 - 1.6 * np.maximum(wide - low, 0) * min(peak / 60, 1.5), 60, 255)
    return np.asarray(shade, np.float64)


def _polygon(points: Float) -> Mask:
    canvas = np.zeros((_GRID, _GRID), np.uint8)
    fixed = np.rint((points + (_GRID - 1) / 2) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], (255,), shift=4)
    return canvas > 0


def _rounded(mask: Mask, rise: float, bevel: float) -> Float:
    """Return a plate of height `rise` whose rim is a quarter circle `bevel` wide."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    t = np.clip(inside / bevel, 0, 1)
    return rise * np.sqrt(1 - (1 - t) ** 2)


def _ring(corners: int, radius: float, turn: float = 0.0) -> Float:
    return np.array(
        [
            (radius * math.cos(turn + 2 * math.pi * i / corners), radius * math.sin(turn + 2 * math.pi * i / corners))
            for i in range(corners)
        ]
    )


def _nut(variant: int, rng: np.random.Generator) -> _Solid:
    flat = _REACH * math.sqrt(3) / 2
    bore = flat * (0.56 + 0.02 * (variant % 4))
    rise = bore * rng.uniform(1.3, 1.7)
    mask = _polygon(_ring(6, _REACH)) & (bore * 0.88 < _R)
    height = np.minimum(_rounded(_polygon(_ring(6, _REACH)), rise, 10), rise - 0.6 * np.maximum(_R - 0.93 * flat, 0))
    height = np.minimum(height, rise - 1.1 * np.maximum(bore * 1.13 - _R, 0))
    turns = np.sin(_R * 1.1 + np.arctan2(_Y, _X)) * 4
    height = np.where(bore > _R, rise * 0.45 + turns, height)
    return _Solid(height, mask, grain=0.02, lathe=float(rng.uniform(0, 0.12)), dish=float(rng.uniform(-0.05, 0.05)))


def _washer(variant: int, rng: np.random.Generator) -> _Solid:
    bore = _REACH * (0.36, 0.46, 0.52, 0.56, 0.5, 0.6, 0.42, 0.58)[variant]
    mask = (_R < _REACH) & (bore < _R)
    rise = float(rng.uniform(16, 30))
    if variant in (5, 7):  # a lock washer: split, thick, with one raised end
        across = _Y + 0.45 * _X
        mask &= ~((np.abs(across) < 9) & (_X > 0))
        rise = 52.0
    return _Solid(
        _rounded(mask, rise, 9),
        mask,
        grain=0.015,
        lathe=float(rng.uniform(0.04, 0.16)),
        dish=float(rng.uniform(-0.1, 0.1)),
    )


def _gear(variant: int, rng: np.random.Generator) -> _Solid:
    teeth = (14, 18, 20, 24, 28, 16, 22, 32)[variant]
    root = _REACH * (1 - 4.4 / (teeth + 2))
    pitch = root + (_REACH - root) * 0.6
    outline = []
    for i in range(teeth):
        for at, radius in ((-0.36, root), (-0.25, pitch), (-0.14, _REACH), (0.14, _REACH), (0.25, pitch), (0.36, root)):
            angle = 2 * math.pi * (i + at) / teeth
            outline.append((radius * math.cos(angle), radius * math.sin(angle)))
    body = _polygon(np.array(outline))
    bore = _REACH * rng.uniform(0.13, 0.2)
    hub, rim = bore * 1.9, root * 0.84
    keyway = (np.abs(_Y) < bore * 0.25) & (_X > 0) & (bore * 1.3 > _X)
    mask = body & (bore < _R) & ~keyway
    holes = (0, 0, 5, 6, 6, 4, 0, 5)[variant]
    for x, y in _ring(holes, (hub + rim) / 2, 0.3) if holes else ():
        mask &= (_X - x) ** 2 + (_Y - y) ** 2 > ((rim - hub) * 0.3) ** 2
    rise = _REACH * rng.uniform(0.22, 0.34)
    height = _rounded(mask, rise, 7)
    if variant != 1:  # the web is lower than rim and hub
        web = (hub < _R) & (rim > _R)
        height = np.minimum(height, rise - _rounded(web, rise * 0.4, 14))
    return _Solid(height, mask, grain=0.02, lathe=0.1, dish=0.04)


def _bolt(variant: int, rng: np.random.Generator) -> _Solid:
    if variant in (3, 7):
        return _standing_bolt(rng)
    slender = (2.6, 3.4, 4.2, 0, 5.0, 5.8, 3.0)[variant]
    thick = 2 * _REACH / (slender + 0.66)  # diameter of the thread
    corner, head = thick * 0.94, thick * 0.66
    left = -_REACH
    neck = left + head
    in_head = (left <= _X) & (neck > _X) & (np.abs(_Y) < corner)
    facet = np.minimum(corner * math.sqrt(3) / 2, math.sqrt(3) * (corner - np.abs(_Y)))
    crown = 0.35 * np.maximum(left + head * 0.3 - _X + 0.25 * (np.abs(_Y) / corner) ** 2 * head, 0)
    head_height = np.where(in_head, np.maximum(facet - crown, 1), 0)
    pitch = thick * 0.15
    around = np.arcsin(np.clip(_Y / (thick / 2), -1, 1)) / math.pi
    phase = (_X / pitch + 0.5 * around) % 1.0
    start = neck + (2 * _REACH - head) * (0.0 if slender < 3.2 else float(rng.uniform(0.25, 0.5)))
    cut = np.where(start < _X, pitch * 0.62 * np.abs(2 * phase - 1), 0.0)
    tip = np.maximum(_X - (_REACH - thick * 0.1), 0)
    radius = np.maximum(thick / 2 - cut - tip, 1)
    in_shaft = (neck <= _X) & (_REACH > _X) & (np.abs(_Y) < radius)
    shaft = np.sqrt(np.maximum(radius**2 - _Y**2, 0)) + corner * math.sqrt(3) / 2 * 0.15
    height = np.where(in_head, head_height, np.where(in_shaft, shaft, 0))
    return _Solid(height, in_head | in_shaft, grain=0.025)


def _standing_bolt(rng: np.random.Generator) -> _Solid:
    """Return a bolt standing on its head: the end of the thread is at the center of the hexagon."""
    flat = _REACH * math.sqrt(3) / 2
    radius = flat * float(rng.uniform(0.56, 0.64))
    mask = _polygon(_ring(6, _REACH))
    height = np.minimum(_rounded(mask, 90, 10), 90 - 0.5 * np.maximum(_R - 0.97 * flat, 0))
    lean = radius * 0.35
    far = np.sqrt((_X - lean) ** 2 + _Y**2)
    near = np.sqrt((_X - np.clip(_X, 0, lean)) ** 2 + _Y**2)  # distance to the leaning axis
    turns = 3 * np.sin((_X - far) * 0.55)
    wall = 150 + np.sqrt(np.maximum(radius**2 - near**2, 0)) + turns
    height = np.where(near < radius, wall, height)
    top = 260 - 0.8 * np.maximum(far - radius * 0.84, 0)
    height = np.where(far < radius, top, height)
    return _Solid(height, mask, grain=0.02, lathe=0.02)


def _spring(variant: int, rng: np.random.Generator) -> _Solid:
    """Return a helix of wire, seen from the side: spheres swept along it, of which the highest counts."""
    turns = (6, 8, 10, 12, 7, 9, 11, 14)[variant]
    coil = _REACH * (0.42, 0.34, 0.3, 0.26, 0.3, 0.4, 0.24, 0.28)[variant]
    wire = _REACH / turns * float(rng.uniform(0.26, 0.4))
    closed = 1.2  # turns at each end that touch the next one
    height = np.zeros((_GRID, _GRID))
    mask = np.zeros((_GRID, _GRID), bool)
    reach = int(wire) + 1
    span = np.arange(-reach, reach + 1)
    steps = turns * 140
    density = [1.0 if closed < turns * i / steps < turns - closed else 0.4 for i in range(steps)]
    run, at = 2 * (_REACH - wire) / sum(density), -_REACH + wire
    for i in range(steps):
        at += run * density[i]
        angle = 2 * math.pi * turns * i / steps
        x, y, z = at, (coil - wire) * math.cos(angle), (coil - wire) * math.sin(angle) + coil
        cx, cy = int(x + _GRID / 2), int(y + _GRID / 2)
        window = (slice(cy - reach, cy + reach + 1), slice(cx - reach, cx + reach + 1))
        dx, dy = cx + span - (_GRID - 1) / 2 - x, cy + span - (_GRID - 1) / 2 - y
        room = wire * wire - dx[None, :] ** 2 - dy[:, None] ** 2
        cap = np.where(room > 0, z + np.sqrt(np.maximum(room, 0)), 0)
        height[window] = np.maximum(height[window], cap)
        mask[window] |= room > 0
    return _Solid(height, mask, grain=0.015)


_BUILDERS: tuple[Callable[[int, np.random.Generator], _Solid], ...] = (_bolt, _nut, _washer, _gear, _spring)
