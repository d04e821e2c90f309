"""Exports that suppress overlapping boxes in the network, or produce none: YOLOv10, YOLO26, and `nms=True`."""

from __future__ import annotations

import numpy as np

from edgesparse.backends.frames import Decode
from edgesparse.runtime.heads.base import POSSIBLE, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import listed


def is_relative(sample: Sample) -> bool:
    """Whether the boxes of a list are 0..1. An empty list in pixels is all zeros; relative boxes never are."""
    return bool(0 < np.abs(sample[0][0][:, :4]).max() <= 1)


class EndToEnd(Head):
    """A list of final boxes."""

    outputs = "one output [B, N, 6]: x1, y1, x2, y2 in pixels, score, class"
    export = "yolo export model=yolov10n.pt format=onnx opset=17 nms=False"
    source = "Wang et al., YOLOv10: Real-Time End-to-End Object Detection, and https://github.com/THU-MIG/yolov10"
    nms = False

    def fits(self, layout: Layout) -> bool:
        return layout.table is not None and layout.table[1] == 6

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.fits(layout) or (sample is not None and is_relative(sample)):
            return None
        return Evidence(POSSIBLE, "six columns, boxes in pixels")

    def classes(self, layout: Layout) -> None:
        return None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        return listed(lambda outputs, b: (outputs[0][b, :, :4], outputs[0][b, :, 4], outputs[0][b, :, 5]), conf)
