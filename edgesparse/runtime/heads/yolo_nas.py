"""YOLO-NAS."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled
from edgesparse.runtime.heads.grid import strides_of


class BoxesAndScores(Head):
    """Boxes [B, N, 4] as xyxy in pixels and scores [B, N, C], one row per cell in both."""

    @abstractmethod
    def order(self, layout: Layout) -> tuple[int, int]:
        """Indices of boxes and scores. Raises LookupError."""

    def fits(self, layout: Layout) -> bool:
        if [len(shape) for shape in layout.shapes] != [3, 3]:
            return False
        boxes, scores = self.order(layout)
        return layout.shapes[scores][:2] == layout.shapes[boxes][:2] and layout.shapes[boxes][2] == 4

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout) or strides_of(layout.shapes[0][1], layout.size) is None:
            return None
        boxes, scores = self.order(layout)
        if any(name in spec.name for spec in layout.outputs for name in ("logit", "label")):
            return None
        if sample is not None and layout.shapes[scores][2] == 4 and sample[scores].max() > 1:
            return None
        first = "boxes and scores" if boxes == 0 else "scores and boxes"
        return Evidence(SHAPES, f"{first} in {layout.shapes[0][1]} rows, the cells of the grid")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[self.order(layout)[1]][2]

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        at, best = self.order(layout)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            scores = outputs[best][image]
            keep = at_least(scores.max(axis=1), conf)
            return labeled(outputs[at][image][keep].astype(np.float32), scores[keep], conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        (boxes, scores), classes = self.order(layout), self.classes(layout)
        cells = layout.shapes[boxes][1]
        return Strided(classes, (Planes(cells, Plane(boxes, 4, 1), Plane(scores, classes, 1)),), kind="corners")


class YoloNas(BoxesAndScores):
    """Boxes first; names may say otherwise."""

    outputs = "two outputs, boxes [B, N, 4] as xyxy in pixels and scores [B, N, C] after the sigmoid"
    export = "model.prep_model_for_conversion(input_size=[1, 3, 640, 640]), then torch.onnx.export(model, ...)"
    source = "https://github.com/Deci-AI/super-gradients, models/detection_models/yolo_nas"

    def order(self, layout: Layout) -> tuple[int, int]:
        boxes = layout.boxes()
        return boxes, 1 - boxes

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        seen = super().evidence(layout, sample)
        named = any("box" in spec.name.lower() for spec in layout.outputs)
        return seen if seen is not None and (named or self.order(layout)[0] == 0) else None
