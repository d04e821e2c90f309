"""YOLOv8 and those that share its layout: YOLOv9, YOLO11, YOLO12, YOLO26 without end-to-end output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Strided
from edgesparse.runtime.heads.base import SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import corners, labeled
from edgesparse.runtime.heads.grid import strides_of


class YoloV8(Head):
    """Anchor-free, without objectness; one column per cell."""

    outputs = "one output [B, 4 + C, N]: center and size in pixels, class scores after the sigmoid"
    export = "yolo export model=best.pt format=onnx opset=17"
    source = "Ultralytics, https://docs.ultralytics.com/models/yolov8"

    def fits(self, layout: Layout) -> bool:
        if layout.table is None:
            return False
        rows, columns = layout.table
        return strides_of(columns, layout.size) is not None or strides_of(rows, layout.size) is None

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if layout.table is None:
            return None
        rows, columns = layout.table
        if strides_of(columns, layout.size) is None or not 4 < rows <= columns:
            return None
        return Evidence(SHAPES, f"{columns} columns are the cells of strides {strides_of(columns, layout.size)}")

    def classes(self, layout: Layout) -> int:
        return layout.outputs[0].shape[1] - 4

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        cells, dtype = layout.outputs[0].shape[2], layout.outputs[0].dtype
        best, below = np.empty(cells, dtype), np.empty(cells, np.bool_)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            raw = outputs[0][image]
            np.max(raw[4:], axis=0, out=best)
            np.less(best, conf, out=below)
            keep = np.logical_not(below, out=below).nonzero()[0]
            return labeled(corners(raw[:4, keep].T), raw[4:, keep].T, conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        _, rows, cells = layout.outputs[0].shape
        return Strided(cells, rows - 4, 1, cells, 1, cells, first_score=4 * cells)
