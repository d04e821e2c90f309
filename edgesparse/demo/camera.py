"""Camera effects: motion blur, rails at the edges, uneven light, vignetting, drifting exposure, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.demo.belt import paint_rail

Bytes = NDArray[np.uint8]
_ONE = 170  # the gain that leaves a pixel unchanged
_SLACK = 61  # how far the noise can be shifted


@dataclass
class Camera:
    """`gain` uint8 [H,W,3], _ONE is neutral. `shutter`: share of the frame period during which it is open. `noise`:
    standard deviation, 1 to 5 gray levels. `rails`: uint8 [r,W,3] at the top and the bottom of the image, r may be 0.
    """

    gain: Bytes
    exposure: float
    shutter: float
    noise: int
    rails: tuple[Bytes, Bytes]
    drift: float = field(default=0.0)

    @property
    def rail(self) -> int:
        """Height of a rail in pixels."""
        return int(self.rails[0].shape[0])

    def take(self, view: Bytes, out: Bytes, speed: int, rng: np.random.Generator) -> None:
        """Capture `view` into `out`, both uint8 [H,W,3], while it moves by `speed` pixels per frame."""
        length = 1 + 2 * round(speed * self.shutter / 2)
        cv2.blur(view, (length, 1), out, borderType=cv2.BORDER_REPLICATE)
        if self.rail:
            out[: self.rail], out[-self.rail :] = self.rails
        self.drift = 0.97 * self.drift + 0.01 * float(rng.uniform(-1, 1))
        cv2.multiply(out, self.gain, out, self.exposure * (1 + self.drift) / _ONE)
        up, down = _noise(*out.shape[:2], self.noise)
        y, x = int(rng.integers(0, _SLACK)), int(rng.integers(0, _SLACK))
        window = slice(y, y + out.shape[0]), slice(x, x + out.shape[1])
        cv2.add(out, up[window], out)
        cv2.subtract(out, down[window], out)


def draw_camera(rng: np.random.Generator, azimuth: float, height: int, width: int) -> Camera:
    """Return a random camera under light from `azimuth` (radians, image axes)."""
    rail = round(height * float(rng.uniform(0.03, 0.07))) if rng.uniform() < 0.45 else 0
    top = paint_rail(rng, rail, width)
    x = (np.arange(width, dtype=np.float32) / np.float32(width) - np.float32(0.5))[None, :]
    y = (np.arange(height, dtype=np.float32) / np.float32(height) - np.float32(0.5))[:, None]
    vignette, lean = np.float32(rng.uniform(0.2, 0.6)), float(rng.uniform(0.1, 0.45))
    pool = np.float32(lean * math.cos(azimuth)) * x + np.float32(lean * math.sin(azimuth)) * y
    gain = (1 - vignette * (x * x + y * y)) * (1 + pool) * np.float32(_ONE)
    if rail:  # the rails are higher than the belt and shade it
        row = np.arange(height, dtype=np.float32)[:, None]
        inner = np.minimum(row, height - 1 - row) - rail
        gain *= np.where(
            inner < 0, 1, np.float32(0.45) + np.float32(0.55) * np.minimum(np.abs(inner) / (0.7 * rail), 1)
        )
    gray = np.clip(gain, 0, 255).astype(np.uint8)
    return Camera(
        np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), np.uint8),
        exposure=float(rng.uniform(0.85, 1.35)),
        shutter=float(rng.uniform(0.05, 0.45)),
        noise=int(rng.integers(1, 6)),
        rails=(top, np.ascontiguousarray(top[::-1])),
    )


@lru_cache(maxsize=8)
def _noise(height: int, width: int, level: int) -> tuple[Bytes, Bytes]:
    """Return what noise adds and what it subtracts; most of it is the same in all channels."""
    rng = np.random.Generator(np.random.PCG64(level))
    shape = (height + _SLACK, width + _SLACK)
    gray = rng.integers(-127, 128, (3, *shape), np.int8).sum(axis=0, dtype=np.int32)
    both = np.stack([rng.integers(-127, 128, shape, np.int8) + gray for _ in range(3)], axis=-1)
    scaled = both * np.float32(level / 147)
    return np.clip(scaled, 0, 255).astype(np.uint8), np.clip(-scaled, 0, 255).astype(np.uint8)
