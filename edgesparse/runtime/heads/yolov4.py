"""YOLOv4 as pytorch-YOLOv4 exports it from Darknet's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import SHAPES, STRETCHED, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled
from edgesparse.runtime.heads.grid import is_dense, strides_of


class YoloV4(Head):
    """Three anchors per cell, decoded; scores are already objectness times class."""

    outputs = "two outputs, boxes [B, N, 1, 4] as relative xyxy and confs [B, N, C]"
    export = "python demo_darknet2onnx.py yolov4.cfg coco.names yolov4.weights image.jpg 1"
    source = "Bochkovskiy et al., YOLOv4, and https://github.com/Tianxiaomo/pytorch-YOLOv4, tool/yolo_layer.py"
    convention = STRETCHED

    def fits(self, layout: Layout) -> bool:
        boxes, scores = self._order(layout)
        return layout.shapes[boxes][2:] == (1, 4) and layout.shapes[scores][:2] == layout.shapes[boxes][:2]

    def _order(self, layout: Layout) -> tuple[int, int]:
        """Indices of boxes and scores. Raises LookupError."""
        if len(layout.outputs) != 2:
            raise LookupError("needed two outputs")
        boxes = layout.index(ndim=4, last=4)
        if len(layout.shapes[1 - boxes]) != 3:
            raise LookupError("needed scores [B, N, C]")
        return boxes, 1 - boxes

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout):
            return None
        boxes, scores = self._order(layout)
        rows = layout.shapes[boxes][1]
        tiny = strides_of(rows // 3, layout.size) == (16, 32)
        if rows % 3 or not (tiny or is_dense(rows // 3, layout.size)):
            return None
        if sample is not None and (sample[scores].min() < 0 or sample[scores].max() > 1):
            return None
        return Evidence(SHAPES, f"boxes [{rows}, 1, 4] and scores, three anchors in each cell of the grid")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[self._order(layout)[1]][2]

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        boxes, confs = self._order(layout)
        pixels = np.array([layout.size[1], layout.size[0]] * 2, np.float32)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            scores = outputs[confs][image]
            keep = at_least(scores.max(axis=1), conf)
            xyxy = outputs[boxes][image][keep, 0].astype(np.float32) * pixels
            return labeled(xyxy, scores[keep], conf, multi_label)

        return decode
