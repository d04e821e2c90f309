"""FreeYOLO, exported without its decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import CENTERED, SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled, power
from edgesparse.runtime.heads.grid import grid, is_dense, priors, strides_for
from edgesparse.runtime.heads.yolov5 import FIRST_CLASS


class FreeYolo(Head):
    """One row per cell of a single image: xy = (cell + 0.5 + xy) * stride, wh = exp(wh) * stride.

    Confidence is the square root of objectness times class.
    """

    outputs = "one output [N, 5 + C] without a batch, [B, 5 + C] per cell: offsets, objectness, class scores"
    export = "python tools/export_onnx.py --weight yolo_free_nano.pth -n yolo_free_nano -v yolo_free_nano"
    source = "https://github.com/yjh0410/FreeYOLO, models/yolo_free/yolo_free.py"
    convention = CENTERED.model_copy(update={"letterbox": "top-left", "colour": "bgr", "scale": 1.0})

    def fits(self, layout: Layout) -> bool:
        shapes = layout.shapes
        return len(shapes) == 1 and len(shapes[0]) == 2 and is_dense(shapes[0][0], layout.size)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.fits(layout) or layout.shapes[0][1] <= FIRST_CLASS:
            return None
        if sample is not None and not (sample[0][:, 4:].min() >= 0 and sample[0][:, 4:].max() <= 1):
            return None
        return Evidence(SHAPES, f"{layout.shapes[0][0]} rows without a batch, one per cell of the grid")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[0][1] - FIRST_CLASS

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        center, stride = _centers(layout)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            keep = at_least(power(outputs[0][:, 4], 0.5), conf)  # class scores are at most 1
            row = outputs[0][keep].astype(np.float32)
            middle, half = (
                center[keep] + row[:, :2] * stride[keep],
                np.exp(row[:, 2:4]) * stride[keep] * np.float32(0.5),
            )
            scores = power(row[:, FIRST_CLASS:], 0.5) * power(row[:, 4:FIRST_CLASS], 0.5)
            return labeled(np.concatenate([middle - half, middle + half], 1), scores, conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        (cells, row), (center, stride) = layout.shapes[0], _centers(layout)
        planes = Planes(cells, *(Plane(0, row, 1, first) for first in (0, FIRST_CLASS, 4)))
        table = priors(center, stride, stride)
        return Strided(self.classes(layout), (planes,), "exp", powers=(0.5, 0.5), priors=table)


def _centers(layout: Layout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Center [N, 2] and stride [N, 1] of each cell, in pixels."""
    corner, stride = grid(layout.size, strides_for(layout.shapes[0][0], layout.size))
    return (corner + np.float32(0.5)) * stride, stride
