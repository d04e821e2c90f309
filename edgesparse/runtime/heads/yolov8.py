"""YOLOv8 and the detectors that share its layout: YOLOv9, YOLO11, YOLO12, YOLO26 without end-to-end output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.boxes import ROUNDING
from edgesparse.runtime.heads.base import SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import corners, labeled
from edgesparse.runtime.heads.grid import strides_of


class YoloV8(Head):
    """Anchor-free, without objectness; one column per cell."""

    outputs = "one output [B, 4 + C, N]: center and size in pixels, class scores after the sigmoid"
    export = "yolo export model=best.pt format=onnx opset=17"
    source = "Ultralytics, https://docs.ultralytics.com/models/yolov8"

    def details(self, layout: Layout) -> int:
        """Number of rows after the class scores, which hold more about each box."""
        return 0

    def columns(self, layout: Layout) -> int:
        """Index of the output that has a column per cell. Raises LookupError."""
        if len(layout.outputs) > 1:
            raise LookupError
        return layout.index(ndim=3)

    def fits(self, layout: Layout) -> bool:
        _, rows, columns = self._spec(layout).shape
        return strides_of(columns, layout.size) is not None or strides_of(rows, layout.size) is None

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        try:
            _, rows, columns = self._spec(layout).shape
            classes = self.classes(layout)
        except LookupError:
            return None
        strides = strides_of(columns, layout.size)
        if strides is None or classes < 1 or rows > columns:
            return None
        if sample is not None and not are_scores(sample[self.columns(layout)][:, 4 : 4 + classes]):
            return None
        return Evidence(SHAPES, f"{columns} columns are the cells of strides {strides}")

    def classes(self, layout: Layout) -> int:
        return self._spec(layout).shape[1] - 4 - self.details(layout)

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        spec, output, end = self._spec(layout), self.columns(layout), 4 + self.classes(layout)
        best, below = np.empty(spec.shape[2], spec.dtype), np.empty(spec.shape[2], np.bool_)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            raw = outputs[output][image]
            np.max(raw[4:end], axis=0, out=best)
            np.less(best, conf, out=below)
            keep = np.logical_not(below, out=below).nonzero()[0]
            boxes = corners(raw[:4, keep].T)
            if end < len(raw):
                boxes = np.concatenate([boxes, raw[end:, keep].T], 1, dtype=np.float32)
            return labeled(boxes, raw[4:end, keep].T, conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        (_, _, cells), output, classes = self._spec(layout).shape, self.columns(layout), self.classes(layout)
        boxes = Plane(output, row=1, step=cells)
        details = self.details(layout)
        more = boxes._replace(first=(4 + classes) * cells) if details else None
        planes = Planes(cells, boxes, boxes._replace(first=4 * cells), details=more)
        return Strided(classes, (planes,), details=details)

    def _spec(self, layout: Layout) -> TensorSpec:
        return layout.outputs[self.columns(layout)]


def are_scores(raw: NDArray[Any]) -> bool:
    """Whether values are scores after the sigmoid, unlike the keypoints in pixels and angles of other tasks."""
    return bool(raw.min() >= 0 and raw.max() <= 1 + ROUNDING)
