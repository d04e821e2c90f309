"""The first DETR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import IMAGENET, VALUES, Evidence, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, corners, labeled
from edgesparse.runtime.heads.rtdetr import RtDetr, pixels_of


class Detr(RtDetr):
    """Boxes and logits in RT-DETR's layout, but with a softmax over the classes and a last column for no object."""

    outputs = (
        "two outputs, boxes [B, N, 4] as relative center and size, and `logits` [B, N, C + 1] before the softmax, the "
        "last column for no object"
    )
    export = "torch.onnx.export of `logits` and `pred_boxes` of transformers' DetrForObjectDetection"
    source = (
        "Carion et al., End-to-End Object Detection with Transformers, and https://github.com/facebookresearch/detr"
    )
    convention = IMAGENET.model_copy(update={"letterbox": "stretch"})
    coco_ids = range(91)

    def fits(self, layout: Layout) -> bool:
        return len(layout.outputs) == 2 and super().fits(layout)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if sample is None or len(layout.outputs) != 2 or super().evidence(layout, sample) is None:
            return None
        logits = sample[1 - layout.boxes()]
        empty = (logits.argmax(axis=-1) == logits.shape[-1] - 1) & (logits[..., -1] > 0)
        return Evidence(VALUES, "most queries are of the last class, no object") if empty.mean() > 0.5 else None

    def classes(self, layout: Layout) -> int:
        return layout.outputs[1 - layout.boxes()].shape[-1] - 1

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        boxes, pixels = layout.boxes(), pixels_of(layout)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            scores = _softmax(outputs[1 - boxes][image])[:, :-1]
            keep = at_least(scores.max(axis=1), conf)
            return labeled(corners(outputs[boxes][image][keep] * pixels), scores[keep], conf, multi_label)

        return decode


def _softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    powers = np.exp(logits.astype(np.float32) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return result
