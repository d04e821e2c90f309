"""Parts of frames, and detections in frames, computed with NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Pixels
from edgesparse.runtime.letterbox import Letterbox
from edgesparse.tiles import Part


def part_of(frame: NDArray[np.uint8], pixels: Pixels, part: Part) -> NDArray[np.uint8]:
    """A part of a frame as a frame of its own."""
    top, left, height, width = part
    if pixels != "nv12":
        return np.ascontiguousarray(frame[top : top + height, left : left + width])
    luma, color = np.split(frame, [len(frame) * 2 // 3])
    rows = [luma[top : top + height, left : left + width], color[top // 2 :][: height // 2, left : left + width]]
    return np.ascontiguousarray(np.concatenate(rows))


def seen(boxes: Candidates, letterbox: Letterbox) -> Candidates:
    """Boxes of the input in the pixels of the frame, without those that are in the padding altogether."""
    xyxy, confidence, labels = boxes
    xyxy = letterbox.to_frame(xyxy)
    inside = (xyxy[:, :2] < xyxy[:, 2:]).all(axis=1)
    return xyxy[inside], confidence[inside], labels[inside]
