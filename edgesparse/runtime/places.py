"""The pixel format of a frame and the places of it and its parts in the model's input, computed once per frame size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.backends.frames import Pixels, Place
from edgesparse.config import InputSpec
from edgesparse.errors import SourceError
from edgesparse.runtime.letterbox import Letterbox
from edgesparse.tiles import Tiles, parts_of

Views = tuple[tuple[Place, Letterbox], ...]
"""The whole frame, then its parts."""
_LIMIT = 1 << 30
"""Most bytes of a frame, and most from its rows to NV12's colors: the kernel counts their sum in 31 bits."""
_KEPT = 64
"""Number of sizes to remember; more than there are cameras."""


class Places:
    """The Place and Letterbox of frames. Raises ModelError if the model's input size is not the recipe's."""

    def __init__(self, spec: InputSpec, image: TensorSpec) -> None:
        spec.check_size(image.shape[2:])
        self._spec = spec
        self._known: dict[Any, Views] = {}

    def of(self, frame: NDArray[np.uint8] | DeviceFrame, pixels: Pixels | None, tiles: Tiles | None = None) -> Views:
        """Return both for a frame, and for each of its parts if there are any. Raises SourceError for a frame of the
        wrong shape or type, ConfigError for too many parts."""
        key: tuple[object, ...]
        if isinstance(frame, np.ndarray):
            key = frame.shape, frame.dtype, pixels, tiles
        else:
            key = *frame.layout, pixels, tiles
        place = self._known.get(key)
        if place is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            place = self._known[key] = self._compute(frame, pixels, tiles)
        return place

    def _compute(self, frame: NDArray[np.uint8] | DeviceFrame, pixels: Pixels | None, tiles: Tiles | None) -> Views:
        kind = pixels or _kind(frame.shape)
        size = _size(frame.shape, kind) if frame.dtype == np.uint8 and all(frame.shape) else None
        if size is None:
            needed = {
                "nv12": "H * 3 / 2 x W uint8 of even sides (NV12)",
                "yuyv": "H x W x 2 uint8 of even width (YUYV)",
            }.get(kind, f"H x W x 3 uint8 ({kind.upper()})")
            raise SourceError(f"frame is {frame.shape} {frame.dtype}: needed {needed}")
        pitch, chroma = (frame.pitch, frame.chroma) if isinstance(frame, DeviceFrame) else (0, 0)
        if max(frame.shape[0] * (pitch or math.prod(frame.shape[1:])), abs(chroma)) > _LIMIT:
            raise SourceError(f"frame is {frame.shape}: needed at most 1 GiB: pass it in parts")
        parts = () if tiles is None else parts_of(tiles, size, self._spec.size)
        views: list[tuple[Place, Letterbox]] = []
        for part in (None, *parts):
            seen = size if part is None else (part.height, part.width)
            box = Letterbox.fit(seen, self._spec.size, self._spec.letterbox)
            place = Place(kind, *size, box.top, box.left, box.height, box.width, part, pitch, chroma)
            views.append((place, box))
        return tuple(views)


def _kind(shape: tuple[int, ...]) -> Pixels:
    """Return the format that the shape suggests. Two dimensions may be gray or NV12, so NV12 must be named."""
    return "yuyv" if len(shape) == 3 and shape[2] == 2 else "bgr"


def _size(shape: tuple[int, ...], kind: Pixels) -> tuple[int, int] | None:
    """Return height and width of the image; None if the frame cannot have this format."""
    if kind == "nv12":
        fits = len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
        return (shape[0] // 3 * 2, shape[1]) if fits else None
    fits = len(shape) == 3 and (shape[2] == 2 and shape[1] % 2 == 0 if kind == "yuyv" else shape[2] == 3)
    return (shape[0], shape[1]) if fits else None
