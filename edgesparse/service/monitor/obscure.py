"""Makes people and other objects in an image unrecognizable before it is stored."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Image

Blur = Literal["none", "objects", "frame"]
BLOCKS = 8
"""Blocks that remain of the shorter side of an object; of a whole frame, four times as many."""
_MARGIN = 0.1


def obscured(image: Image, detections: Detections, blur: Blur) -> Image:
    """Return a copy, BGR uint8 [H, W, 3]: as it is, with each detected box blurred, or blurred as a whole. What is
    blurred is reduced to a few blocks of mean color, which cannot be undone.
    """
    copy = image.copy()
    height, width = image.shape[:2]
    if blur == "frame":
        copy[:] = _blocks(copy, 4 * BLOCKS)
    elif blur == "objects":
        for left, top, right, bottom in detections.xyxy.tolist():
            x, y = _MARGIN * (right - left), _MARGIN * (bottom - top)
            rows = slice(max(0, int(top - y)), min(height, int(np.ceil(bottom + y))))
            columns = slice(max(0, int(left - x)), min(width, int(np.ceil(right + x))))
            if rows.start < rows.stop and columns.start < columns.stop:
                copy[rows, columns] = _blocks(copy[rows, columns], BLOCKS)
    return copy


def _blocks(part: Image, blocks: int) -> Image:
    height, width = part.shape[:2]
    scale = min(1.0, blocks / min(height, width))
    small = max(1, int(width * scale)), max(1, int(height * scale))
    reduced = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)
