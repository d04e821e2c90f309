"""What the camera adds: motion blur, vignette and uneven light, exposure that drifts, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_ONE = 170  # the gain that leaves a pixel as it is
_SLACK = 61  # how far the noise can be shifted


@dataclass
class Camera:
    """`gain` uint8 [H,W,3], _ONE is neutral. `shutter`: share of a frame's time that it is open. `noise`: 1 to 5, the
    deviation in grey levels."""

    gain: Bytes
    exposure: float
    shutter: float
    noise: int
    drift: float = field(default=0.0)

    def take(self, view: Bytes, out: Bytes, speed: int, rng: np.random.Generator) -> None:
        """Photograph `view` into `out`, both uint8 [H,W,3], while it moves by `speed` pixels a frame."""
        length = 1 + 2 * round(speed * self.shutter / 2)
        cv2.blur(view, (length, 1), out, borderType=cv2.BORDER_REPLICATE)
        self.drift = 0.97 * self.drift + 0.01 * float(rng.uniform(-1, 1))
        cv2.multiply(out, self.gain, out, self.exposure * (1 + self.drift) / _ONE)
        up, down = _noise(*out.shape[:2], self.noise)
        y, x = int(rng.integers(0, _SLACK)), int(rng.integers(0, _SLACK))
        window = slice(y, y + out.shape[0]), slice(x, x + out.shape[1])
        cv2.add(out, up[window], out)
        cv2.subtract(out, down[window], out)


def draw_camera(rng: np.random.Generator, azimuth: float, height: int, width: int) -> Camera:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / np.float32(width) - np.float32(0.5), y / np.float32(height) - np.float32(0.5)
    vignette, lean = np.float32(rng.uniform(0.25, 0.7)), rng.uniform(0.05, 0.4)
    pool = np.float32(lean * math.cos(azimuth)) * x + np.float32(lean * math.sin(azimuth)) * y
    grey = np.clip((1 - vignette * (x * x + y * y)) * (1 + pool) * _ONE, 0, 255).astype(np.uint8)
    gain = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    return Camera(gain, float(rng.uniform(0.8, 1.2)), float(rng.uniform(0.2, 0.6)), int(rng.integers(1, 6)))


@lru_cache(maxsize=8)
def _noise(height: int, width: int, level: int) -> tuple[Bytes, Bytes]:
    """What noise adds and what it takes away; mostly the same in all channels, slightly soft."""
    rng = np.random.Generator(np.random.PCG64(level))
    shape = (height + _SLACK, width + _SLACK)
    grey = rng.integers(-127, 128, (3, *shape), np.int8).sum(axis=0, dtype=np.int32)
    both = np.stack([rng.integers(-127, 128, shape, np.int8) + grey for _ in range(3)], axis=-1)
    scaled = both * np.float32(level / 147)
    return np.clip(scaled, 0, 255).astype(np.uint8), np.clip(-scaled, 0, 255).astype(np.uint8)
