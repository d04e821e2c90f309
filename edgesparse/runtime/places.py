"""The pixel format of a frame and its place in the model's input, computed once per frame size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.frames import Pixels, Place
from edgesparse.config import InputSpec
from edgesparse.errors import ModelError, SourceError
from edgesparse.runtime.letterbox import Letterbox

_KEPT = 64
"""Number of sizes to remember; more than there are cameras."""


class Places:
    """The Place and Letterbox of frames. Raises ModelError if the model's input size is not the recipe's."""

    def __init__(self, spec: InputSpec, image: TensorSpec) -> None:
        if image.shape[2:] != spec.size:
            actual, expected = "x".join(map(str, image.shape[2:])), "x".join(map(str, spec.size))
            raise ModelError(f"the model's input is {actual}, the recipe's input.size is {expected}: make them equal")
        self._spec = spec
        self._known: dict[Any, tuple[Place, Letterbox]] = {}

    def of(self, frame: NDArray[np.uint8], pixels: Pixels | None) -> tuple[Place, Letterbox]:
        """Return both for a frame. Raises SourceError for a frame of the wrong shape or type."""
        key = (frame.shape, frame.dtype, pixels)
        place = self._known.get(key)
        if place is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            place = self._known[key] = self._compute(frame, pixels)
        return place

    def _compute(self, frame: NDArray[np.uint8], pixels: Pixels | None) -> tuple[Place, Letterbox]:
        kind = pixels or _kind(frame)
        size = _size(frame, kind) if frame.dtype == np.uint8 and frame.size else None
        if size is None:
            needed = {
                "nv12": "H * 3 / 2 x W uint8 of even sides (NV12)",
                "yuyv": "H x W x 2 uint8 of even width (YUYV)",
            }.get(kind, f"H x W x 3 uint8 ({kind.upper()})")
            raise SourceError(f"frame is {frame.shape} {frame.dtype}: needed {needed}")
        box = Letterbox.fit(size, self._spec.size, self._spec.letterbox)
        return Place(kind, *size, box.top, box.left, box.height, box.width), box


def _kind(frame: NDArray[np.uint8]) -> Pixels:
    """Return the format that the shape suggests. Two dimensions may be gray or NV12, so NV12 must be named."""
    return "yuyv" if frame.ndim == 3 and frame.shape[2] == 2 else "bgr"


def _size(frame: NDArray[np.uint8], kind: Pixels) -> tuple[int, int] | None:
    """Return height and width of the image; None if the frame cannot have this format."""
    shape = frame.shape
    if kind == "nv12":
        fits = len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
        return (shape[0] // 3 * 2, shape[1]) if fits else None
    fits = len(shape) == 3 and (shape[2] == 2 and shape[1] % 2 == 0 if kind == "yuyv" else shape[2] == 3)
    return (shape[0], shape[1]) if fits else None
