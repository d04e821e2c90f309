"""YOLOv5 and the detectors that share its layout: YOLOv6 and YOLOv7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import POSSIBLE, SHAPES, VALUES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, corners, labeled
from edgesparse.runtime.heads.grid import is_decoded, is_dense, strides_of

FIRST_CLASS = 5
"""Column of the first class, after the box and the objectness."""


def is_rows(layout: Layout) -> bool:
    """Whether the only output is [B, N, 5 + C] with one row per cell, as YOLOv6 and YOLOX write it."""
    return layout.table is not None and is_dense(layout.table[0], layout.size) and layout.table[1] > FIRST_CLASS


class DecodedRows(Head):
    """Rows [B, N, 5 + C] of center and size in pixels, objectness and class scores."""

    def classes(self, layout: Layout) -> int:
        return layout.outputs[0].shape[2] - FIRST_CLASS

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            rows = outputs[0][image]
            # A box's confidence is objectness times class, so never more than objectness.
            rows = rows[at_least(rows[:, 4], conf)]
            return labeled(corners(rows[:, :4]), rows[:, FIRST_CLASS:] * rows[:, 4:FIRST_CLASS], conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        _, cells, row = layout.outputs[0].shape
        boxes = Plane(0, row, 1)
        planes = Planes(cells, boxes, boxes._replace(first=FIRST_CLASS), objectness=boxes._replace(first=4))
        return Strided(row - FIRST_CLASS, (planes,))


class YoloV5(DecodedRows):
    """Three anchors per cell (YOLOv5, YOLOv7), or one prediction per cell with an objectness of 1 (YOLOv6)."""

    outputs = "one output [B, N, 5 + C]: center and size in pixels, objectness, class scores, all after the sigmoid"
    export = "python export.py --weights best.pt --include onnx --opset 17"
    source = "https://github.com/ultralytics/yolov5, models/yolo.py (Detect)"

    def fits(self, layout: Layout) -> bool:
        if layout.table is None:
            return False
        rows, columns = layout.table
        return strides_of(rows, layout.size) is not None or strides_of(columns, layout.size) is None

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if layout.table is None or layout.table[1] <= FIRST_CLASS:
            return None
        rows = layout.table[0]
        if rows % 3 == 0 and is_dense(rows // 3, layout.size):
            return Evidence(SHAPES, f"{rows} rows are three anchors in each cell of the grid")
        if not is_rows(layout):
            return None
        if sample is None:
            return Evidence(POSSIBLE, f"{rows} rows are one per cell of the grid")
        raw = sample[0][0]
        if is_decoded(raw, layout.size) and (raw[:, 4] == 1).all():
            return Evidence(VALUES, "one decoded box per cell, each with an objectness of 1 (YOLOv6)")
        return None
