"""A light above the belt: what a metal reflects towards the camera for every direction of its surface.

A metal shows its surroundings. The camera looks straight down, so what a point reflects depends on its normal
alone, and an image indexed by the normal (a "matcap", Sloan et al., The Lit Sphere, 2001) holds all of it. Rotating a
part rotates its normals, never the image: highlights keep facing the light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bytes = NDArray[np.uint8]

SIDE = 256  # a matcap is SIDE x SIDE; the normal (0, 0, 1) is at its middle
_HALF = 96  # computed at this size, then upscaled
_NY, _NX = (np.mgrid[0:_HALF, 0:_HALF] + 0.5) / (_HALF / 2) - 1
_NZ = np.sqrt(np.maximum(1 - _NX * _NX - _NY * _NY, 0.01))
_LENGTH = np.sqrt(_NX * _NX + _NY * _NY + _NZ * _NZ)
_RX, _RY, _RZ = 2 * _NX * _NZ / _LENGTH**2, 2 * _NY * _NZ / _LENGTH**2, 2 * (_NZ / _LENGTH) ** 2 - 1


@dataclass(frozen=True)
class Metal:
    """`mirror`: reflectance at normal incidence, linear BGR. `matte`: diffuse share. `blur`: blur of the reflection."""

    name: str
    mirror: tuple[float, float, float]
    matte: float
    blur: float


METALS: tuple[Metal, ...] = (
    Metal("steel", (0.60, 0.58, 0.56), 0.03, 0.12),
    Metal("zinc", (0.72, 0.67, 0.63), 0.07, 0.24),
    Metal("brass", (0.20, 0.56, 0.84), 0.03, 0.12),
    Metal("black oxide", (0.085, 0.075, 0.07), 0.03, 0.26),
    Metal("yellow zinc", (0.33, 0.56, 0.68), 0.07, 0.18),
    Metal("rusted steel", (0.14, 0.20, 0.28), 0.09, 0.30),
)


@dataclass(frozen=True)
class Light:
    """A soft box at `azimuth` (radians, image axes) and `tilt` from the vertical, with a weaker strip opposite.
    `tint`: linear BGR of the box; `room`: brightness of ceiling and walls; `bounce`: linear BGR of light from the belt.
    """

    azimuth: float
    tilt: float
    size: float
    power: float
    tint: tuple[float, float, float]
    room: float
    bounce: tuple[float, float, float]

    @property
    def shadow(self) -> tuple[float, float]:
        """Offset of a shadow per unit of height."""
        reach = math.tan(self.tilt)
        return -reach * math.cos(self.azimuth), -reach * math.sin(self.azimuth)

    def matcap(self, metal: Metal) -> Bytes:
        """Return uint8 BGR [SIDE, SIDE, 3], with rows by the normal's y and columns by its x."""
        key = self._box(0.0, self.tilt, self.size, self.size * 0.6, metal.blur) * self.power
        strip = self._box(math.pi * 0.85, 0.95, 0.9, 0.16, metal.blur) * self.power * 0.4
        side = math.cos(self.azimuth + 0.9) * _RX + math.sin(self.azimuth + 0.9) * _RY
        ceiling = self.room * (0.25 + 0.75 * _step(_RZ + 0.7 * side, 0.1 - metal.blur, 0.95 + metal.blur))
        ceiling *= _step(_RZ, -0.3 - metal.blur, 0.1 + metal.blur)
        below = _step(-_RZ, -0.3, 0.6)
        lambert = self._lambert() * self.power * 0.5 + self.room
        edge = (1 - _NZ / _LENGTH) ** 5 * 0.5
        channels = []
        for mirror, tint, bounce in zip(metal.mirror, self.tint, self.bounce, strict=True):
            seen = (key + strip) * tint + ceiling * (0.5 + 0.5 * tint) + below * (0.6 * bounce + 0.12 * self.room)
            channels.append((mirror + (1 - mirror) * edge) * seen + metal.matte * lambert * tint)
        small = np.rint(255 * tone(np.stack(channels, axis=-1))).astype(np.uint8)
        return np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)

    def _direction(self, turn: float, tilt: float) -> tuple[float, float, float]:
        angle = self.azimuth + turn
        return math.sin(tilt) * math.cos(angle), math.sin(tilt) * math.sin(angle), math.cos(tilt)

    def _box(self, turn: float, tilt: float, wide: float, high: float, blur: float) -> Float:
        """Return how much of each reflected ray hits a rectangle of half size (wide, high) at distance one."""
        lx, ly, lz = self._direction(turn, tilt)
        flat = math.hypot(lx, ly)
        towards = _RX * lx + _RY * ly + _RZ * lz
        u = (-_RX * ly + _RY * lx) / flat
        v = (_RX * lx * lz + _RY * ly * lz) / flat - _RZ * flat
        near = np.maximum(towards, 0.05)
        soft = blur + 0.02
        inside = _step(wide - np.abs(u / near), -soft, soft) * _step(high - np.abs(v / near), -soft, soft)
        return inside * _step(towards, 0.05, 0.3)

    def _lambert(self) -> Float:
        lx, ly, lz = self._direction(0.0, self.tilt)
        return np.asarray(np.maximum(_NX * lx + _NY * ly + _NZ * lz, 0) / _LENGTH, np.float64)


def draw_light(rng: np.random.Generator, bounce: tuple[float, float, float]) -> Light:
    """Return a random light: warm to cold, high to low, hard to soft."""
    warm = float(rng.uniform(-1, 1))
    tint = (1 + 0.12 * warm, 1.0, 1 - 0.12 * warm)
    return Light(
        azimuth=float(rng.uniform(0, 2 * math.pi)),
        tilt=float(rng.uniform(0.45, 0.8)),
        size=float(rng.uniform(0.35, 0.75)),
        power=float(rng.uniform(3.0, 5.5)),
        tint=tint,
        room=float(rng.uniform(0.4, 0.8)),
        bounce=bounce,
    )


def tone(linear: Float) -> Float:
    """Convert scene light to display values 0..1: Reinhard's curve with a white point of 3, and a gamma of 2."""
    return np.asarray(np.sqrt(np.clip(linear * (1 + linear / 9) / (1 + linear * 0.75), 0, 1)), np.float64)


def _step(x: Float, low: float, high: float) -> Float:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float64)
