"""YOLO exported by DeepStream-Yolo: decoded corners with the best class of each prediction, without NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Decode
from edgesparse.runtime.heads.base import SHAPES, VALUES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import listed
from edgesparse.runtime.heads.grid import is_dense


def is_corners_and_class(raw: NDArray[Any]) -> bool:
    """Whether all rows [n, 6] hold ordered corners, a score and an integral class; rows of center and size do not."""
    label = raw[:, 5]
    whole = bool((label == np.rint(label)).all() and label.min() >= 0)
    return whole and bool((raw[:, :2] <= raw[:, 2:4]).all() and raw[:, 4].min() >= 0 and raw[:, 4].max() <= 1)


class DeepStreamYolo(Head):
    """One row per cell or anchor, with its best class only; earlier releases write three outputs."""

    outputs = (
        "one output [B, N, 6], a row per cell or anchor: x1, y1, x2, y2 in pixels, score, class, without NMS; or "
        "three, boxes [B, N, 4], scores [B, N, 1] and classes [B, N, 1]"
    )
    export = "python export_yolov8.py -w best.pt --dynamic (utils of DeepStream-Yolo)"
    source = "https://github.com/marcoslucianops/DeepStream-Yolo, utils/export_yolov8.py (DeepStreamOutput)"

    @property
    def per_class(self) -> bool:
        return False

    def fits(self, layout: Layout) -> bool:
        if len(layout.outputs) == 3:
            boxes, scores, labels = _apart(layout)
            rows = layout.shapes[boxes][1]
            return layout.shapes[scores][1:] == layout.shapes[labels][1:] == (rows, 1)
        return layout.table is not None and layout.table[1] == 6

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout):
            return None
        rows = layout.shapes[0][1]
        if not is_dense(rows, layout.size) and not (rows % 3 == 0 and is_dense(rows // 3, layout.size)):
            return None
        if len(layout.outputs) == 3:
            return Evidence(SHAPES, f"outputs named boxes, scores and classes in {rows} rows of the grid")
        if sample is None or not is_corners_and_class(sample[0][0]):
            return None
        return Evidence(VALUES, f"{rows} rows of the grid with ordered corners, a score and a whole class")

    def classes(self, layout: Layout) -> None:
        return None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        if len(layout.outputs) == 3:
            box, score, label = _apart(layout)
            return listed(lambda out, b: (out[box][b], out[score][b, :, 0], out[label][b, :, 0]), conf)

        def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
            raw = outputs[0][b]
            return raw[:, :4], raw[:, 4], raw[:, 5]

        return listed(rows, conf)


def _apart(layout: Layout) -> tuple[int, int, int]:
    """Indices of boxes, scores and classes. Raises LookupError."""
    box, score, label = (layout.index(name=name, ndim=3) for name in ("boxes", "scores", "classes"))
    return box, score, label
