"""Lists of final objects for other tasks than detection: YOLO26, and exports with `nms=True`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import POSSIBLE, SHAPES, Evidence, Layout, Sample
from edgesparse.runtime.heads.candidates import corners, listed
from edgesparse.runtime.heads.end2end import EndToEnd
from edgesparse.runtime.heads.grid import is_dense
from edgesparse.runtime.heads.objects import WithAngles, WithKeypoints, WithMasks

FIRST_DETAIL = 6
"""Columns of the box, the score and the class."""


class _Listed(EndToEnd):
    """A row per object: x1, y1, x2, y2, score, class, details."""

    export = "yolo export model=yolo26n-seg.pt format=onnx opset=17 end2end=True (the same for -pose and -obb)"
    source = "Ultralytics, https://docs.ultralytics.com/models/yolo26"
    centered = False
    """Whether boxes are stored as center and size rather than corners."""

    def details(self, layout: Layout) -> int:
        raise NotImplementedError

    def columns(self, layout: Layout) -> int:
        """Index of the list. Raises LookupError."""
        if len(layout.outputs) > 1:
            raise LookupError
        return layout.index(ndim=3)

    def fits(self, layout: Layout) -> bool:
        return layout.shapes[self.columns(layout)][2] == FIRST_DETAIL + self.details(layout)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout) or is_dense(rows := layout.shapes[self.columns(layout)][1], layout.size):
            return None
        strength = SHAPES if len(layout.outputs) > 1 else POSSIBLE
        return Evidence(strength, f"a list of {rows} objects with {self.details(layout)} values beside box and class")

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        output, centered = self.columns(layout), self.centered
        final = listed(
            lambda outputs, b: (outputs[output][b], outputs[output][b, :, 4], outputs[output][b, :, 5]), conf
        )

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            rows, score, label = final(outputs, image)
            boxes = corners(rows[:, :4]) if centered else rows[:, :4]
            return np.concatenate([boxes, rows[:, FIRST_DETAIL:]], 1), score, label

        return decode


class EndToEndSegment(WithMasks, _Listed):
    """Instance masks."""

    outputs = "[B, N, 6 + k]: x1, y1, x2, y2 in pixels, score, class, coefficients; and prototypes [B, k, H / 4, W / 4]"


class EndToEndPose(WithKeypoints, _Listed):
    """Poses."""

    outputs = "one output [B, N, 6 + K * (2 or 3)]: x1, y1, x2, y2 in pixels, score, class, the keypoints"


class EndToEndRotated(WithAngles, _Listed):
    """Rotated boxes."""

    outputs = "one output [B, N, 7]: center and size in pixels, score, class, angle in radians"
    centered = True
