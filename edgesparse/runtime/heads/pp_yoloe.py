"""PP-YOLOE and PP-YOLOE+, exported without NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import SHAPES, STRETCHED, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled
from edgesparse.runtime.heads.grid import strides_of


class PPYoloE(Head):
    """Boxes in rows and scores in columns. PP-YOLOE without the plus is trained with ImageNet's mean and std."""

    outputs = "two outputs, boxes [B, N, 4] as xyxy in pixels and scores [B, C, N] after the sigmoid"
    export = "python tools/export_model.py -c ppyoloe.yml -o exclude_nms=True, then paddle2onnx"
    source = "https://github.com/PaddlePaddle/PaddleDetection, ppdet/modeling/heads/ppyoloe_head.py"
    convention = STRETCHED

    def fits(self, layout: Layout) -> bool:
        if [len(shape) for shape in layout.shapes] != [3, 3]:
            return False
        boxes = layout.boxes()
        return layout.shapes[1 - boxes][2] == layout.shapes[boxes][1]

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout):
            return None
        cells = layout.shapes[layout.boxes()][1]
        if strides_of(cells, layout.size) is None or self.classes(layout) == cells:
            return None
        return Evidence(SHAPES, f"boxes in {cells} rows and scores in {cells} columns, the cells of the grid")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[1 - layout.boxes()][1]

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        boxes = layout.boxes()
        best = np.empty(layout.shapes[boxes][1], layout.outputs[1 - boxes].dtype)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            scores = outputs[1 - boxes][image]
            keep = at_least(np.max(scores, axis=0, out=best), conf)
            return labeled(outputs[boxes][image][keep].astype(np.float32), scores[:, keep].T, conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        boxes = layout.boxes()
        cells = layout.shapes[boxes][1]
        planes = Planes(cells, Plane(boxes, 4, 1), Plane(1 - boxes, 1, cells))
        return Strided(self.classes(layout), (planes,), kind="corners")
