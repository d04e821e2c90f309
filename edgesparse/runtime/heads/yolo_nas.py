"""YOLO-NAS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Strided
from edgesparse.runtime.heads.base import SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled
from edgesparse.runtime.heads.grid import strides_of


class YoloNas(Head):
    """Boxes and scores as two outputs, one row per cell in both."""

    outputs = "two outputs, boxes [B, N, 4] as xyxy in pixels and scores [B, N, C] after the sigmoid"
    export = "model.prep_model_for_conversion(input_size=[1, 3, 640, 640]), then torch.onnx.export(model, ...)"
    source = "https://github.com/Deci-AI/super-gradients, models/detection_models/yolo_nas"

    def fits(self, layout: Layout) -> bool:
        shapes = layout.shapes
        return len(shapes) == 2 and shapes[1 - layout.boxes()][:2] == shapes[layout.boxes()][:2]

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        shapes = layout.shapes
        if [len(shape) for shape in shapes] != [3, 3] or not any(shape[-1] == 4 for shape in shapes):
            return None
        named = any(name in spec.name for spec in layout.outputs for name in ("logit", "label"))
        if named or not self.fits(layout) or strides_of(shapes[0][1], layout.size) is None:
            return None
        return Evidence(SHAPES, f"boxes and scores in {shapes[0][1]} rows, the cells of the grid")

    def classes(self, layout: Layout) -> int:
        return layout.outputs[1 - layout.boxes()].shape[-1]

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        boxes = layout.boxes()

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            scores = outputs[1 - boxes][image]
            keep = at_least(scores.max(axis=1), conf)
            return labeled(outputs[boxes][image][keep].astype(np.float32), scores[keep], conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        boxes, classes = layout.boxes(), self.classes(layout)
        _, cells, _ = layout.outputs[boxes].shape
        return Strided(cells, classes, 4, 1, classes, 1, box_output=boxes, score_output=1 - boxes, kind="corners")
