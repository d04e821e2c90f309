"""From a camera's frame to the model's input: resize, pad, reorder and scale into a preallocated buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse import config
from edgesparse.errors import ModelError, SourceError
from edgesparse.runtime.antialias import Antialias
from edgesparse.runtime.letterbox import Letterbox


@dataclass(frozen=True)
class _Path:
    """Views and settings for frames of one size in one slot, created when the size is first seen."""

    shape: tuple[int, ...]
    box: Letterbox
    resized: NDArray[np.uint8]
    """[h, w, 3]"""
    antialias: Antialias | None
    """What resizes and crops, if the frame is cropped."""
    split: list[NDArray[np.uint8]]
    """The planes of blue, green and red: those below, in the frame's order."""
    planes: NDArray[np.uint8]
    """[3, h, w] in the model's order"""
    out: NDArray[Any]
    """[3, h, w], a view of the model's input"""


class Preprocessor:
    """Writes frames (BGR uint8 [H, W, 3]) into `buffer` (NCHW float32, float16, int8 or uint8), one slot per image.

    A uint8 model does the scaling itself and gets the pixels unchanged; an int8 model gets scaled values, rounded and
    clipped. Everything that depends on the frame's size is computed when the size changes. A frame of a known size
    costs one resize, with antialiasing if it is cropped, as classifiers' trainers do; one split; and, unless the model
    takes uint8, one table lookup per channel, without temporaries. Raises ModelError for a buffer that cannot hold
    images and, when called, SourceError for a frame of the wrong shape or type.
    """

    def __init__(self, spec: config.InputSpec, buffer: NDArray[Any]) -> None:
        if buffer.ndim != 4 or buffer.shape[1] != 3 or buffer.dtype.name not in ("float32", "float16", "int8", "uint8"):
            raise ModelError(
                f"input is {buffer.shape} {buffer.dtype}: needed N x 3 x H x W float32, float16, int8 or uint8"
            )
        spec.check_size(buffer.shape[2:])
        self._spec, self._buffer = spec, buffer
        self._resized = np.empty((*spec.size, 3), np.uint8)
        self._planes = np.empty((3, *spec.size), np.uint8)
        self._scratch = np.empty(spec.size, np.float32)
        # The lookup tables are in the order of the model's channels.
        pixel = np.arange(256, dtype=np.float64)[None] * spec.scale
        table = (pixel - np.array(spec.mean)[:, None]) / np.array(spec.std)[:, None]
        self._tables = table.astype(np.float32)
        if buffer.dtype == np.int8:
            self._tables = np.rint(self._tables).clip(-128, 127).astype(np.int8)
        self._copies = np.array_equal(table, np.tile(np.arange(256.0), (3, 1)))
        self._bytes = buffer.dtype == np.uint8
        self._paths: list[_Path | None] = [None] * len(buffer)

    def __call__(self, frame: NDArray[np.uint8], slot: int = 0) -> Letterbox:
        path = self._paths[slot]
        # OpenCV would write a frame of another type to a new array and leave the previous image in the buffer.
        if path is None or frame.shape != path.shape or frame.dtype != np.uint8:
            path = self._fit(frame, slot)
        if path.antialias is None:
            cv2.resize(frame, (path.box.width, path.box.height), dst=path.resized, interpolation=cv2.INTER_LINEAR)
        else:
            path.antialias(frame, path.resized)
        cv2.split(path.resized, path.split)
        if self._bytes:
            return path.box
        if self._copies:
            np.copyto(path.out, path.planes)
        elif path.out.dtype == self._tables.dtype:
            for channel in range(3):
                cv2.LUT(path.planes[channel], self._tables[channel], path.out[channel])
        else:
            wide = self._scratch[: path.planes.shape[1], : path.planes.shape[2]]
            for channel in range(3):
                cv2.LUT(path.planes[channel], self._tables[channel], wide)
                np.copyto(path.out[channel], wide, casting="same_kind")
        return path.box

    def _fit(self, frame: NDArray[np.uint8], slot: int) -> _Path:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise SourceError(f"frame is {frame.shape} {frame.dtype}: needed H x W x 3 uint8 (BGR)")
        box = Letterbox.fit((frame.shape[0], frame.shape[1]), self._spec.size, self._spec.letterbox)
        for channel in range(3):
            pad = self._spec.pad if self._bytes else self._tables[channel, self._spec.pad]
            self._buffer[slot, channel] = pad
        top, left = max(box.top, 0), max(box.left, 0)
        out = self._buffer[slot, :, top : box.top + box.height, left : box.left + box.width]
        planes = out if self._bytes else self._planes[:, : out.shape[1], : out.shape[2]]
        order = (0, 1, 2) if self._spec.colour == "bgr" else (2, 1, 0)
        resized, antialias = self._resized[: out.shape[1], : out.shape[2]], None
        if self._spec.letterbox == "crop":
            whole = box.height, box.width
            antialias = Antialias(frame.shape, whole, top - box.top, left - box.left, self._spec.size)
        path = _Path(frame.shape, box, resized, antialias, [planes[channel] for channel in order], planes, out)
        self._paths[slot] = path
        return path
