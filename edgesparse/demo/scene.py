"""A rendered conveyor belt with metal parts and exact labels; the same seed gives the same images.

The belt is one long image: a part is drawn onto it once, before it comes into view, and a frame is a window of it with
the effects of a camera (motion blur, vignetting, exposure, noise). Pixels depend only on integer arithmetic, or on
float arithmetic that IEEE 754 rounds exactly, so neither threads nor SIMD change them.

A label's box is the tight box of the part's whole silhouette (pixels at least half covered) inside the frame, whether
or not another part covers it. A part has no label if less than a quarter of its silhouette is visible, whether hidden
or outside the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgesparse.demo.belt import BLOCK, draw_belt, paint_belt
from edgesparse.demo.camera import Camera, draw_camera
from edgesparse.demo.light import METALS, Metal, draw_light
from edgesparse.demo.parts import CLASSES, VARIANTS
from edgesparse.demo.sprite import Outline, Pose, draw_outline, draw_sprite, lay, lies, shadow_reach
from edgesparse.errors import ConfigError

__all__ = ["CLASSES", "Labels", "Scene", "still"]

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SEEN = 0.25  # a part that is less visible has no label
SLOTS = 6  # the belt is filled slot by slot, this many per frame width; each has one part that stays visible
_MOST = 5  # parts per slot
_CROWD = 23  # parts per frame from which on a slot gets only one: never more than 30
_ANCHOR = 0.6  # share of a slot's first part that others leave uncovered
_SIZES = ((64, 158), (36, 86), (34, 100), (56, 156), (60, 156))  # longest side at 640x480, by class
_STANDING = (38, 70)  # bolts on their heads


@dataclass(frozen=True)
class Labels:
    """`xyxy` float32 [n,4] in pixels: left, top, right, bottom, the last two exclusive; `class_id` int64 [n]."""

    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]


class _Part:
    """A part on the belt: its silhouette, and which of it is uncovered."""

    def __init__(self, pose: Pose, x: int, y: int, area: int, mask: Mask, anchor: bool) -> None:
        self.class_id, self.radius, self.anchor = pose.class_id, pose.longest * 0.45, anchor
        self.x, self.y, self.area = x, y, area
        self.open, self._inside = mask.copy(), max(int(np.count_nonzero(mask)), 1)
        height = mask.shape[0]
        self._any: Mask = np.asarray(mask.any(axis=0))
        self._top = np.where(self._any, mask.argmax(axis=0), height)
        self._bottom = np.where(self._any, height - mask[::-1].argmax(axis=0), 0)
        self._count()

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.open.shape[1] / 2, self.y + self.open.shape[0] / 2

    def _count(self) -> None:
        self._seen = np.concatenate([[0], np.cumsum(np.count_nonzero(self.open, axis=0))])

    def left_open(self, mask: Mask, x: int, y: int) -> float:
        """Return the share of the silhouette inside the belt's edges that stays uncovered if `mask` is placed at (x,
        y).
        """
        mine, other = self._shared(mask, x, y)
        return float(np.count_nonzero(self.open) - np.count_nonzero(self.open[mine] & mask[other])) / self._inside

    def cover(self, mask: Mask, x: int, y: int) -> None:
        mine, other = self._shared(mask, x, y)
        if self.open[mine].size:
            self.open[mine] &= ~mask[other]
            self._count()

    def _shared(self, mask: Mask, x: int, y: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        left, top = max(self.x, x), max(self.y, y)
        right = max(min(self.x + self.open.shape[1], x + mask.shape[1]), left)
        bottom = max(min(self.y + self.open.shape[0], y + mask.shape[0]), top)
        mine = slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x)
        return mine, (slice(top - y, bottom - y), slice(left - x, right - x))

    def box(self, offset: int, width: int) -> tuple[int, int, int, int] | None:
        """Return the tight box in a frame whose left edge is at `offset`; None if too little is visible."""
        low, high = max(offset - self.x, 0), min(offset + width - self.x, self._any.size)
        if high <= low or self._seen[high] - self._seen[low] < SEEN * self.area:
            return None
        columns = np.flatnonzero(self._any[low:high])
        left, right = low + int(columns[0]), low + int(columns[-1]) + 1
        top, bottom = int(self._top[left:right].min()), int(self._bottom[left:right].max())
        return self.x + left - offset, self.y + top, self.x + right - offset, self.y + bottom


class Scene:
    """An endless belt. `height`, `width`: frame size in pixels; `seed`: 0 or more. Raises ConfigError for less than 64
    pixels, or a negative seed.
    """

    def __init__(self, seed: int = 0, *, height: int = 480, width: int = 640) -> None:
        self._setup((0, seed), height, width, moves=True)

    def _setup(self, seeds: tuple[int, int], height: int, width: int, moves: bool) -> None:
        """`moves`: whether more than one frame will be taken."""
        if min(height, width) < 64:
            raise ConfigError(f"found a frame size of {width}x{height} pixels, needed at least 64x64")
        if seeds[1] < 0:
            raise ConfigError(f"found seed {seeds[1]}, needed 0 or more")
        rng = np.random.Generator(np.random.PCG64(seeds))
        self._rng, self._height, self._width = rng, height, width
        self._scale = min(height / 480, width / 640)
        belt = draw_belt(rng)
        self._light = draw_light(rng, tuple((c / 255) ** 2 for c in belt.colour))  # type: ignore[arg-type]
        self._matcap = cache(self._light.matcap)
        self._metal_odds = rng.dirichlet((1.6, 1.3, 0.7, 0.6, 0.6, 0.25))
        unit = max(round(8 * self._scale), 1)
        self._tile = paint_belt(belt, rng, height, -(-(1 + moves) * width // (BLOCK * unit)), unit)
        self._camera: Camera = draw_camera(rng, self._light.azimuth, height, width)
        self._speed = max(round(float(rng.uniform(2.5, 7)) * self._scale), 1)
        self._reach = math.ceil(150 * self._scale) + self._speed
        self._slot = width / SLOTS
        lead = 2 * self._reach + math.ceil(self._slot)
        self._belt = np.empty((height, lead + 2 * width + lead, 3), np.uint8)
        self._left = 0  # where the image starts on the endless belt; a part's x and the offset are relative to that
        self._offset = lead
        self._end = math.inf if moves else lead + width  # nothing from here on will ever be visible
        self._filled = 0  # slots
        self._load = int(rng.integers(0, _MOST))
        self._parts: list[_Part] = []
        self._wash(0)
        self._fill()

    def render(self, out: Bytes | None = None) -> tuple[Bytes, Labels]:
        """Return the next frame, uint8 BGR [height, width, 3], rendered into `out` if passed, and its labels."""
        if out is None:
            out = np.empty((self._height, self._width, 3), np.uint8)
        start = self._offset - self._left
        self._camera.take(self._belt[:, start : start + self._width], out, self._speed, self._rng)
        labels = self._labels()
        self._offset += self._speed
        self._fill()
        return out, labels

    def _labels(self) -> Labels:
        boxes = [(part.box(self._offset, self._width), part.class_id) for part in self._parts]
        seen = [(box, class_id) for box, class_id in boxes if box is not None]
        xyxy = np.array([box for box, _ in seen], np.float32).reshape(-1, 4)
        return Labels(xyxy, np.array([class_id for _, class_id in seen], np.int64))

    def _wash(self, start: int) -> None:
        """Clear the belt from column `start` of the image on."""
        period = self._tile.shape[1]
        while start < self._belt.shape[1]:
            at = (self._left + start) % period
            run = min(period - at, self._belt.shape[1] - start)
            self._belt[:, start : start + run] = self._tile[:, at : at + run]
            start += run

    def _fill(self) -> None:
        """Place parts up to where they are not visible yet; move the image along when its end is near."""
        right = self._offset + self._width + self._reach
        while self._filled * self._slot < right:
            if self._filled * self._slot + self._slot + self._reach > self._left + self._belt.shape[1]:
                self._advance()
            self._lay_slot(self._filled * self._slot)
            self._filled += 1

    def _advance(self) -> None:
        step = self._offset - self._left
        keep = self._belt.shape[1] - step
        self._belt[:, :keep] = self._belt[:, step:].copy()
        self._left += step
        self._wash(keep)
        self._parts = [part for part in self._parts if part.x + part.open.shape[1] > self._offset]

    def _lay_slot(self, start: float) -> None:
        rng = self._rng
        self._load = min(max(self._load + int(rng.integers(-1, 2)), 0), _MOST - 1)
        anchor: _Part | None = None
        room = _CROWD - sum(part.middle[0] > start - self._width for part in self._parts)
        for _ in range(max(min(1 + int(rng.integers(0, self._load + 1)), room), 1)):
            outline, metal = self._draw()
            for _ in range(1 if anchor else 8):  # no slot may stay empty
                x, y = self._place(start, outline.pose.longest * 0.45, outline.mask.shape[0])
                part = self._lay(outline, metal, x, y, anchor is None)
                anchor = anchor or part
                if part is not None:
                    break

    def _draw(self) -> tuple[Outline, Metal]:
        rng = self._rng
        class_id = int(rng.integers(0, len(CLASSES)))
        variant = int(rng.integers(0, VARIANTS))
        low, high = _STANDING if class_id == 0 and variant in (3, 7) else _SIZES[class_id]
        share = float(rng.uniform(0, 1))
        longest = (low + (high - low) * share * (0.7 + 0.3 * share)) * self._scale
        slant = (float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12)))
        pose = Pose(class_id, variant, longest, float(rng.uniform(0, 2 * math.pi)), slant)
        return draw_outline(pose), METALS[int(rng.choice(len(METALS), p=self._metal_odds))]

    def _place(self, start: float, radius: float, height: int) -> tuple[float, float]:
        """Return a center for a part, mostly clear of others: between the rails or, without rails, up to the frame's
        edges.
        """
        rng, rail = self._rng, self._camera.rail
        rim = rail + height / 2 + 1 if rail else 20 * self._scale
        x = y = 0.0
        for _ in range(8):
            x = start + float(rng.uniform(0, self._slot))
            y = float(rng.uniform(rim, self._height - rim))
            if rng.uniform(0, 1) < 0.12 or all(self._clear(part, x, y, radius) for part in self._parts[-24:]):
                break
        return x, y

    @staticmethod
    def _clear(part: _Part, x: float, y: float, radius: float) -> bool:
        px, py = part.middle
        return math.hypot(px - x, py - y) > 0.7 * (part.radius + radius)

    def _lay(self, outline: Outline, metal: Metal, x: float, y: float, anchor: bool) -> _Part | None:
        """Place a part with its center at (x, y), unless it would hide too much of an anchor."""
        high, wide = outline.mask.shape
        left, top = round(x - wide / 2), round(y - high / 2)
        mask = lies(outline, top, self._height)
        near = [part for part in self._parts if part.x + part.open.shape[1] > left]
        if any(part.anchor and part.left_open(mask, left, top) < _ANCHOR for part in near):
            return None
        reach = shadow_reach(outline.pose, self._light)
        if left + wide + reach > self._offset and left - reach < self._end:
            lay(draw_sprite(outline, self._light, self._matcap(metal)), self._belt, left - self._left, top)
        for part in near:
            part.cover(mask, left, top)
        part = _Part(outline.pose, left, top, int(np.count_nonzero(outline.mask)), mask, anchor)
        self._parts.append(part)
        return part


def still(seed: int, *, height: int = 480, width: int = 640) -> tuple[Bytes, Labels]:
    """Return one frame of a separate scene: light, belt, exposure and parts all depend on the seed. Raises ConfigError
    as Scene does.
    """
    scene = Scene.__new__(Scene)
    scene._setup((1, seed), height, width, moves=False)
    return scene.render()
