"""YOLO exported by DeepStream-Yolo: decoded corners with the best class of each prediction, without NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Decode
from edgesparse.runtime.heads.base import VALUES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import listed
from edgesparse.runtime.heads.grid import is_dense


def is_corners_and_class(raw: NDArray[Any]) -> bool:
    """Whether rows [n, 6] hold ordered corners, a score and a whole class. Rows of center and size never all do."""
    label = raw[:, 5]
    whole = bool((label == np.rint(label)).all() and label.min() >= 0)
    return whole and bool((raw[:, :2] <= raw[:, 2:4]).all() and raw[:, 4].min() >= 0 and raw[:, 4].max() <= 1)


class DeepStreamYolo(Head):
    """One row per cell or anchor, each with the best class alone."""

    outputs = "one output [B, N, 6], a row per cell or anchor: x1, y1, x2, y2 in pixels, score, class, without NMS"
    export = "python export_yolov8.py -w best.pt --dynamic (utils of DeepStream-Yolo)"
    source = "https://github.com/marcoslucianops/DeepStream-Yolo, utils/export_yolov8.py (DeepStreamOutput)"

    @property
    def per_class(self) -> bool:
        return False

    def fits(self, layout: Layout) -> bool:
        return layout.table is not None and layout.table[1] == 6

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if sample is None or layout.table is None or layout.table[1] != 6:
            return None
        rows = layout.table[0]
        on_grid = is_dense(rows, layout.size) or (rows % 3 == 0 and is_dense(rows // 3, layout.size))
        if not on_grid or not is_corners_and_class(sample[0][0]):
            return None
        return Evidence(VALUES, f"{rows} rows of the grid with ordered corners, a score and a whole class")

    def classes(self, layout: Layout) -> None:
        return None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
            raw = outputs[0][b]
            return raw[:, :4], raw[:, 4], raw[:, 5]

        return listed(rows, conf)
