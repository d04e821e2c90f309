"""Draws what detections have besides boxes: masks, keypoints, rotated boxes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.masks import Bitmaps
from edgesparse.stream.frames import Image

COCO_LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""Pairs of COCO's 17 keypoints of a person that are connected."""
SEEN = 0.5
"""Minimum confidence of keypoints that are drawn."""
OPAQUE = 0.45


class Shapes:
    """Draws into images, in memory that is reused while their size stays the same."""

    def __init__(self) -> None:
        self._bitmaps = Bitmaps()
        self._filled: Image = np.empty((0, 0, 3), np.uint8)

    def draw(
        self, image: Image, detections: Detections, row: int, color: tuple[int, int, int], thickness: int, scale: float
    ) -> bool:
        """Draw the object in `row`; its coordinates times `scale` are the image's. Returns whether to draw its box
        too."""
        if detections.masks is not None:
            outlines = [polygon * scale for polygon in detections.masks[row].polygons(self._bitmaps)]
            self._fill(image, [np.rint(outline).astype(np.int32) for outline in outlines], color)
        if detections.keypoints is not None:
            _draw_keypoints(image, detections.keypoints[row] * np.array([scale, scale, 1]), color, thickness)
        if detections.rotated is None:
            return True
        assert detections.corners is not None
        corners = np.rint(detections.corners[row] * scale).astype(np.int32)
        cv2.polylines(image, [corners], True, color, thickness, cv2.LINE_AA)
        return False

    def _fill(self, image: Image, outlines: list[NDArray[np.int32]], color: tuple[int, int, int]) -> None:
        """Blend the color into the image inside the outlines; only their bounding rectangle is processed."""
        if not outlines:
            return
        points = np.concatenate(outlines)
        left, top = np.maximum(points.min(axis=0), 0)
        right, bottom = points.max(axis=0) + 1
        if self._filled.shape != image.shape:
            self._filled = np.empty_like(image)
        part, filled = image[top:bottom, left:right], self._filled[top:bottom, left:right]
        np.copyto(filled, part)
        cv2.fillPoly(filled, [outline - np.array([left, top]) for outline in outlines], color)
        cv2.addWeighted(filled, OPAQUE, part, 1 - OPAQUE, 0, dst=part)


def _draw_keypoints(image: Image, points: NDArray[np.floating], color: tuple[int, int, int], thickness: int) -> None:
    at = [(round(float(x)), round(float(y))) for x, y, _ in points]
    seen = points[:, 2] >= SEEN
    if len(points) == 17:
        for first, second in COCO_LIMBS:
            if seen[first] and seen[second]:
                cv2.line(image, at[first], at[second], color, thickness, cv2.LINE_AA)
    for place in np.flatnonzero(seen):
        cv2.circle(image, at[place], 2 * thickness, color, cv2.FILLED, cv2.LINE_AA)
