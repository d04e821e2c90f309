"""FastestDet: one feature map at stride 16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import STRETCHED, VALUES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled, power, sigmoid
from edgesparse.runtime.heads.grid import priors

STRIDE = 16
FIRST_CLASS = 5
OBJECT_POWER, CLASS_POWER = 0.6, 0.4
"""Confidence is objectness ** 0.6 * class ** 0.4."""


class FastestDet(Head):
    """One prediction per cell of 16 pixels: center = cell + tanh, size = sigmoid as a share of the input."""

    outputs = "one output [B, 5 + C, H / 16, W / 16]: objectness, box offsets, class scores after the softmax"
    export = "python test.py --yaml coco.yaml --weight best.pth --onnx"
    source = "https://github.com/dog-qiuqiu/FastestDet, utils/tool.py (handle_preds)"
    convention = STRETCHED.model_copy(update={"colour": "bgr"})

    def fits(self, layout: Layout) -> bool:
        rows, columns = layout.size[0] // STRIDE, layout.size[1] // STRIDE
        shapes = layout.shapes
        return len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][2:] == (rows, columns)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if sample is None or not self.fits(layout) or layout.shapes[0][1] <= FIRST_CLASS:
            return None
        raw = sample[0][0].astype(np.float32)
        objectness, scores = raw[0], raw[FIRST_CLASS:]
        normal = scores.min() >= 0 and np.allclose(scores.sum(axis=0), 1, atol=0.01)
        if not normal or objectness.min() < 0 or objectness.max() > 1:
            return None
        return Evidence(VALUES, "one map at stride 16 with an objectness and class scores that add up to 1")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[0][1] - FIRST_CLASS

    def _priors(self, layout: Layout) -> NDArray[np.float32]:
        rows, columns = layout.shapes[0][2:]
        step = np.array([layout.size[1] / columns, layout.size[0] / rows])
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        return priors(np.stack([x, y], 1) * step, step, layout.size[::-1])

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        origin, step, size = np.split(self._priors(layout), 3, axis=1)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            raw = outputs[0][image].reshape(layout.shapes[0][1], -1)
            # Class scores are at most 1, so a confidence is at most objectness ** 0.6.
            keep = at_least(power(raw[0], OBJECT_POWER), conf)
            row = raw[:, keep].T.astype(np.float32)
            center = origin[keep] + np.tanh(row[:, 1:3]) * step[keep]
            half = sigmoid(row[:, 3:FIRST_CLASS]) * size[keep] * np.float32(0.5)
            scores = power(row[:, :1], OBJECT_POWER) * power(row[:, FIRST_CLASS:], CLASS_POWER)
            return labeled(np.concatenate([center - half, center + half], 1), scores, conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        _, _, rows, columns = layout.shapes[0]
        cells = rows * columns
        planes = Planes(cells, *(Plane(0, 1, cells, first * cells) for first in (1, FIRST_CLASS, 0)))
        powers = OBJECT_POWER, CLASS_POWER
        return Strided(self.classes(layout), (planes,), "tanh-sigmoid", powers=powers, priors=self._priors(layout))
