"""CenterNet (Objects as Points): peaks of a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import CENTERED, SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import sigmoid
from edgesparse.runtime.heads.grid import side

STRIDE = 4


class CenterNet(Head):
    """A box per cell of the heat map whose value is at least that of its eight neighbors."""

    outputs = (
        "three outputs, hm [B, C, H / 4, W / 4] before the sigmoid, wh and reg [B, 2, H / 4, W / 4], in that order"
    )
    export = (
        "torch.onnx.export of a module that returns hm, wh and reg of create_model('res_18', heads, 64)(images)[-1]"
    )
    source = "Zhou et al., Objects as Points, section 4, and https://github.com/xingyizhou/CenterNet (decode.py)"
    nms = False
    convention = CENTERED.model_copy(
        update={"pad": 0, "colour": "bgr", "mean": (0.408, 0.447, 0.470), "std": (0.289, 0.274, 0.278)}
    )
    logits: ClassVar[bool] = True

    def _order(self, layout: Layout) -> tuple[int, int, int]:
        """Indices of heat map, sizes and offsets; names take precedence over the order. Raises LookupError."""
        size = side(layout.size[0], STRIDE), side(layout.size[1], STRIDE)
        if len(layout.outputs) != 3 or any(len(shape) != 4 or shape[2:] != size for shape in layout.shapes):
            raise LookupError(f"needed three maps of {size[0]} x {size[1]}")
        names = [spec.name for spec in layout.outputs]
        order = tuple(names.index(name) if name in names else i for i, name in enumerate(("hm", "wh", "reg")))
        if sorted(order) != [0, 1, 2]:
            raise LookupError("needed hm, wh and reg")
        return order[0], order[1], order[2]

    def fits(self, layout: Layout) -> bool:
        _, sides, offsets = self._order(layout)
        return layout.shapes[sides][1] == layout.shapes[offsets][1] == 2

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout):
            return None
        if sample is None:
            return Evidence(SHAPES, "a heat map, sizes and offsets at stride 4") if self.logits else None
        heat = sample[self._order(layout)[0]]
        if bool(heat.min() < 0 or heat.max() > 1) != self.logits:
            return None
        state = "before" if self.logits else "after"
        return Evidence(SHAPES, f"a heat map {state} the sigmoid, sizes and offsets at stride 4")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[self._order(layout)[0]][1]

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        heat, sides, offsets = self._order(layout)
        neighbors = np.ones((3, 3), np.uint8)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            raw = outputs[heat][image].astype(np.float32)
            scores = sigmoid(raw) if self.logits else raw
            largest = np.stack([cv2.dilate(plane, neighbors) for plane in scores])
            label, y, x = np.nonzero(~(scores < conf) & ~(scores < largest))
            center = np.stack([x, y], 1) + outputs[offsets][image][:, y, x].T
            half = outputs[sides][image][:, y, x].T * 0.5
            xyxy = (np.concatenate([center - half, center + half], 1) * STRIDE).astype(np.float32)
            return xyxy, scores[label, y, x], label.astype(np.int64)

        return decode


class CenterNetScores(CenterNet):
    """With the sigmoid in the file."""

    outputs = CenterNet.outputs.replace("before", "after")
    logits = False
