"""The letterbox: the rectangle of the model's input that a frame fills, and the mapping of boxes between the two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgesparse import config


@dataclass(frozen=True)
class Letterbox:
    """The rectangle of the model's input that a frame fills, in pixels, and the mapping of coordinates both ways.

    Coordinates start at the corner of the first pixel, so a frame of width 640 spans 0..640.
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

        Rounds as the trainers do: `centre` rounds the resized sides (Ultralytics), `top-left` truncates them (YOLOX),
        `stretch` ignores the frame's aspect ratio (RT-DETR). With `crop` the frame's shorter side fills the input, and
        the rectangle reaches beyond it at both ends of the longer one (torchvision's Resize and CenterCrop).
        """
        if kind == "stretch":
            return cls(*frame, 0, 0, *size)
        if kind == "crop":
            by_height = size[0] * frame[1] >= size[1] * frame[0]
            side, limit = (frame[0], size[0]) if by_height else (frame[1], size[1])
            height, width = frame[0] * limit // side, frame[1] * limit // side
            return cls(*frame, -round((height - size[0]) / 2), -round((width - size[1]) / 2), height, width)
        ratio = min(size[0] / frame[0], size[1] / frame[1])
        to_whole = int if kind == "top-left" else round
        # 1248 times a ratio of 1/3 may give 415.99: the side at the limit is set, not computed.
        height, width = (
            limit if side * ratio > limit - 0.01 else max(1, to_whole(side * ratio))
            for side, limit in zip(frame, size, strict=True)
        )
        if kind == "top-left":
            return cls(*frame, 0, 0, height, width)
        return cls(*frame, (size[0] - height) // 2, (size[1] - width) // 2, height, width)

    def to_input(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert boxes [n, 4] from the frame's pixels to the input's."""
        return xyxy * self._scale + self._offset

    def to_frame(self, xyxy: NDArray[np.float32], clip: bool = True) -> NDArray[np.float32]:
        """Convert boxes [n, 4] from the input's pixels to the frame's, clipped to the frame unless `clip` is False."""
        boxes = (xyxy - self._offset if self.left or self.top else xyxy) / self._scale
        return self.clipped(boxes) if clip else boxes

    def clipped(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clip boxes [n, 4] in the frame's pixels to the frame, in place."""
        np.maximum(boxes, 0, out=boxes)
        np.minimum(boxes, self._limit, out=boxes)
        return boxes

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        x, y = self.width / self.frame_width, self.height / self.frame_height
        return np.array([x, y, x, y], np.float32)

    @cached_property
    def _offset(self) -> NDArray[np.float32]:
        return np.array([self.left, self.top] * 2, np.float32)

    @cached_property
    def _limit(self) -> NDArray[np.float32]:
        return np.array([self.frame_width, self.frame_height] * 2, np.float32)
