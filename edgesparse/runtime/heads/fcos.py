"""FCOS of torchvision, exported without its own decoding and NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled, sigmoid
from edgesparse.runtime.heads.grid import cells, priors
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
        origin, stride = _points(layout.size)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            logits = outputs[at][image][:, 1:]
            centerness = sigmoid(outputs[center][image].astype(np.float32))
            best = sigmoid(logits.max(axis=1).astype(np.float32))
            # A class that is no number makes no candidate of a cell whose centerness is too low, as on the GPU.
            keep = at_least(np.sqrt(np.fmin(best * centerness[:, 0], centerness[:, 0])), conf)
            distance = outputs[boxes][image][keep].astype(np.float32) * stride[keep]
            xyxy = np.concatenate([origin[keep] - distance[:, :2], origin[keep] + distance[:, 2:]], 1)
            scores = np.sqrt(sigmoid(logits[keep].astype(np.float32)) * centerness[keep])
            return labeled(xyxy, scores, conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        (at, boxes, center), classes, (origin, stride) = self._order(layout), self.classes(layout), _points(layout.size)
        scores = Plane(at, 1 + classes, 1, first=1)
        planes = Planes(len(origin), Plane(boxes, 4, 1), scores, objectness=Plane(center, 1, 1))
        table = priors(origin, stride, stride)
        return Strided(classes, (planes,), "distances", "logits", powers=(0.5, 0.5), priors=table)


def _points(size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The point [N, 2] and the stride [N, 1] of each cell, in pixels."""
    levels = [shifts(size, level) for level in range(len(STRIDES))]
    stride = np.repeat(np.array(STRIDES, np.float32), [len(level) for level in levels])
    return np.concatenate(levels), stride[:, None]
