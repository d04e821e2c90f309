"""From a camera's frame to the network's input: resize, pad, reorder and scale, into a buffer that is there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse import config
from edgesparse.errors import ModelError, SourceError


@dataclass(frozen=True)
class Letterbox:
    """Where a frame lies in the network's input, in pixels; the mapping of coordinates both ways.

    Coordinates count from the corner of the first pixel, so a frame of width 640 spans 0..640.
    """

    frame_height: int
    frame_width: int
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def fit(cls, frame: tuple[int, int], size: tuple[int, int], kind: config.Letterbox) -> Letterbox:
        """Fit a frame of (height, width) into an input of (height, width).

        As the trainers do: `centre` rounds the resized sides (Ultralytics), `top-left` cuts them (YOLOX), `stretch`
        ignores the frame's ratio (RT-DETR).
        """
        if kind == "stretch":
            return cls(*frame, 0, 0, *size)
        ratio = min(size[0] / frame[0], size[1] / frame[1])
        whole = int if kind == "top-left" else round
        # A ratio of 1/3 times 1248 may come out as 415.99: the limit's side is set, not computed.
        height, width = (
            limit if side * ratio > limit - 0.01 else max(1, whole(side * ratio))
            for side, limit in zip(frame, size, strict=True)
        )
        if kind == "top-left":
            return cls(*frame, 0, 0, height, width)
        return cls(*frame, (size[0] - height) // 2, (size[1] - width) // 2, height, width)

    def to_input(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [n, 4] in the frame's pixels to the input's."""
        return xyxy * self._scale() + self._offset()

    def to_frame(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [n, 4] in the input's pixels to the frame's, clipped to the frame."""
        boxes = (xyxy - self._offset()) / self._scale()
        boxes[:, 0::2].clip(0, self.frame_width, out=boxes[:, 0::2])
        boxes[:, 1::2].clip(0, self.frame_height, out=boxes[:, 1::2])
        return boxes

    def _scale(self) -> NDArray[np.float32]:
        x, y = self.width / self.frame_width, self.height / self.frame_height
        return np.array([x, y, x, y], np.float32)

    def _offset(self) -> NDArray[np.float32]:
        return np.array([self.left, self.top, self.left, self.top], np.float32)


class Preprocessor:
    """Writes frames (BGR uint8 [H, W, 3]) into `buffer` (NCHW float32, float16 or uint8), a slot a picture.

    What depends on the frame's size is worked out when the size changes; a frame of a known size costs one resize,
    one split and one table look-up a channel, with no temporary. Raises ModelError for a buffer that cannot hold
    pictures, and SourceError, when called, for a frame that is none.
    """

    def __init__(self, spec: config.InputSpec, buffer: NDArray[Any]) -> None:
        if buffer.ndim != 4 or buffer.shape[1] != 3 or buffer.dtype.name not in ("float32", "float16", "uint8"):
            raise ModelError(f"input is {buffer.shape} {buffer.dtype}: needed N x 3 x H x W float32, float16 or uint8")
        if tuple(buffer.shape[2:]) != spec.size:
            found, needed = "x".join(map(str, buffer.shape[2:])), "x".join(map(str, spec.size))
            raise ModelError(f"the network's input is {found}, the recipe's input.size is {needed}: make them equal")
        self._spec, self._buffer = spec, buffer
        self._resized = np.empty((*spec.size, 3), np.uint8)
        self._planes = np.empty((3, *spec.size), np.uint8)
        self._scratch = np.empty(spec.size, np.float32)
        self._order = (0, 1, 2) if spec.colour == "bgr" else (2, 1, 0)
        # The look-up tables are in the order of the network's channels.
        pixel = np.arange(256, dtype=np.float64)[None] * spec.scale
        table = (pixel - np.array(spec.mean)[:, None]) / np.array(spec.std)[:, None]
        self._tables = table.astype(np.float32)
        self._copies = np.array_equal(table, np.tile(np.arange(256.0), (3, 1)))
        if buffer.dtype == np.uint8 and not self._copies:
            raise ModelError("the network takes uint8: set input.scale: 1, mean: 0, std: 1 in the recipe")
        self._boxes: list[Letterbox | None] = [None] * len(buffer)

    def __call__(self, frame: NDArray[np.uint8], slot: int = 0) -> Letterbox:
        box = self._boxes[slot]
        # OpenCV would write a frame of another kind into a new array and leave the last picture in the buffer.
        if box is None or frame.shape != (box.frame_height, box.frame_width, 3) or frame.dtype != np.uint8:
            box = self._fit(frame, slot)
        resized = self._resized[: box.height, : box.width]
        cv2.resize(frame, (box.width, box.height), dst=resized, interpolation=cv2.INTER_LINEAR)
        planes = [self._planes[c, : box.height, : box.width] for c in range(3)]
        cv2.split(resized, planes)
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        for channel, source in enumerate(self._order):
            self._write(planes[source], self._buffer[slot, channel, rows, columns], channel)
        return box

    def _write(self, plane: NDArray[np.uint8], out: NDArray[Any], channel: int) -> None:
        if self._copies:
            np.copyto(out, plane)
        elif out.dtype == np.float32:
            cv2.LUT(plane, self._tables[channel], out)
        else:
            wide = self._scratch[: out.shape[0], : out.shape[1]]
            cv2.LUT(plane, self._tables[channel], wide)
            np.copyto(out, wide, casting="same_kind")

    def _fit(self, frame: NDArray[np.uint8], slot: int) -> Letterbox:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise SourceError(f"frame is {frame.shape} {frame.dtype}: needed H x W x 3 uint8 (BGR)")
        box = Letterbox.fit((frame.shape[0], frame.shape[1]), self._spec.size, self._spec.letterbox)
        for channel in range(3):
            self._buffer[slot, channel] = self._tables[channel, self._spec.pad]
        self._boxes[slot] = box
        return box
