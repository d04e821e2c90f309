"""What detectors of several families report besides an object's box: its mask, keypoints or rotated box."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgesparse.config import Keypoints
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.heads.base import Complete, Head, Layout, Task
from edgesparse.runtime.letterbox import Letterbox
from edgesparse.runtime.prototypes import MaskMaker
from edgesparse.runtime.rotated import canonical, corners_of

COCO_KEYPOINTS = (17, 3)


class WithMasks(Head):
    """Each box has k coefficients for the prototypes, which are the other output [B, k, height, width]."""

    task: ClassVar[Task] = "segment"

    def prototypes(self, layout: Layout) -> int:
        """Raises LookupError if there are none."""
        if sorted(map(len, layout.shapes)) != [3, 4]:
            raise LookupError
        return layout.index(ndim=4)

    def details(self, layout: Layout) -> int:
        return layout.shapes[self.prototypes(layout)][1]

    def columns(self, layout: Layout) -> int:
        return 1 - self.prototypes(layout)

    def complete(self, layout: Layout) -> Complete:
        return MaskMaker(layout.shapes[self.prototypes(layout)][1:], layout.size)


class WithKeypoints(Head):
    """Each box has x and y of its keypoints, in the input's pixels, and usually a confidence of each."""

    task: ClassVar[Task] = "pose"

    def details(self, layout: Layout) -> int:
        return int(np.prod(_keypoints(layout)))

    def complete(self, layout: Layout) -> Complete:
        shape = _keypoints(layout)

        def complete(
            detections: Detections, candidates: NDArray[np.float32], _: NDArray[Any] | None, letterbox: Letterbox
        ) -> Detections:
            values = candidates[:, 4:].reshape(len(candidates), *shape) if len(candidates) else np.empty((0, *shape))
            points = np.ones((len(values), shape[0], 3), np.float32)
            points[..., 2:] = values[..., 2:]
            flat = np.ascontiguousarray(values[..., :2]).reshape(-1, 2)
            points[..., :2] = letterbox.to_frame(np.tile(flat, 2))[:, :2].reshape(-1, shape[0], 2)
            return replace(detections, keypoints=points)

        return complete


class WithAngles(Head):
    """Each box, stored as center and size, is rotated around its center by an angle in radians."""

    task: ClassVar[Task] = "obb"

    def details(self, layout: Layout) -> int:
        return 1

    def complete(self, layout: Layout) -> Complete:
        return with_rotated


def with_rotated(
    detections: Detections, candidates: NDArray[np.float32], _: NDArray[Any] | None, letterbox: Letterbox
) -> Detections:
    """Rotated boxes in the frame's pixels; `xyxy` becomes the upright box around them, within the frame."""
    boxes = canonical(rotated_of(letterbox.to_frame(candidates[:, :4], clip=False), candidates[:, 4:].reshape(-1)))
    corners = corners_of(boxes)
    upright = np.concatenate([corners.min(axis=1), corners.max(axis=1)], 1)
    return replace(detections, xyxy=letterbox.clipped(upright), rotated=boxes)


def rotated_of(extents: NDArray[np.float32], angle: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rotated boxes [n, 5] from their corners before they are rotated."""
    low, high = extents[:, :2], extents[:, 2:]
    return np.column_stack([(low + high) / 2, high - low, angle])


def _keypoints(layout: Layout) -> Keypoints:
    return layout.keypoints or COCO_KEYPOINTS
