"""FCOS of torchvision, exported without its own decoding and NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled, sigmoid
from edgesparse.runtime.heads.grid import cells
from edgesparse.runtime.heads.retinanet import EXPORT, STRIDES, RetinaNet, shifts


class Fcos(Head):
    """Distances from each cell to the sides, in strides. Confidence is the square root of class times centerness."""

    outputs = "three outputs, cls_logits [B, N, 1 + C], bbox_regression [B, N, 4] and bbox_ctrness [B, N, 1]"
    export = f"{EXPORT}, bbox_ctrness"
    source = "Tian et al., FCOS, and https://github.com/pytorch/vision, torchvision/models/detection/fcos.py"
    convention = RetinaNet.convention
    coco_ids = RetinaNet.coco_ids

    def _order(self, layout: Layout) -> tuple[int, int, int]:
        """Indices of logits, boxes and centerness. Raises LookupError."""
        if [len(shape) for shape in layout.shapes] != [3, 3, 3]:
            raise LookupError("needed three outputs [B, N, ...]")
        boxes, centerness = layout.boxes(), layout.index(last=1)
        return 3 - boxes - centerness, boxes, centerness

    def fits(self, layout: Layout) -> bool:
        self._order(layout)
        return {shape[1] for shape in layout.shapes} == {cells(layout.size, STRIDES)}

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout):
            return None
        logits, _, centerness = self._order(layout)
        if sample is not None and all(
            raw.min() >= 0 and raw.max() <= 1 for raw in (sample[logits], sample[centerness])
        ):
            return None
        return Evidence(SHAPES, f"logits, distances and centerness in each cell of the strides {STRIDES}")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[self._order(layout)[0]][2] - 1

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        at, boxes, center = self._order(layout)
        levels = [shifts(layout.size, level) for level in range(len(STRIDES))]
        origin = np.concatenate(levels)
        stride = np.repeat(np.array(STRIDES, np.float32), [len(level) for level in levels])[:, None]

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            logits = outputs[at][image][:, 1:]
            centerness = sigmoid(outputs[center][image].astype(np.float32))
            best = sigmoid(logits.max(axis=1).astype(np.float32))
            keep = at_least(np.sqrt(best * centerness[:, 0]), conf)
            distance = outputs[boxes][image][keep].astype(np.float32) * stride[keep]
            xyxy = np.concatenate([origin[keep] - distance[:, :2], origin[keep] + distance[:, 2:]], 1)
            scores = np.sqrt(sigmoid(logits[keep].astype(np.float32)) * centerness[keep])
            return labeled(xyxy, scores, conf, multi_label)

        return decode
