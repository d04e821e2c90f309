"""A head for detectors that give each box's left top corner and sides as fractions of the input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled


class CornerHead(Head):
    outputs = "three outputs, corner [B, N, 2], side [B, N, 2] and scores [B, N, C] after the sigmoid"
    export = "python make_model.py"
    source = "this example"

    def fits(self, layout: Layout) -> bool:
        names = [spec.name for spec in layout.outputs]
        return names == ["corner", "side", "scores"] and [len(shape) for shape in layout.shapes] == [3, 3, 3]

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        return Evidence(SHAPES, "outputs named corner, side and scores") if self.fits(layout) else None

    def classes(self, layout: Layout) -> int:
        return layout.outputs[2].shape[-1]

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        height, width = layout.size
        size = np.array([width, height], np.float32)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            corner, side, scores = (output[image] for output in outputs)
            keep = at_least(scores.max(axis=1), conf)
            left_top = corner[keep] * size
            boxes = np.concatenate([left_top, left_top + side[keep] * size], 1).astype(np.float32)
            return labeled(boxes, scores[keep], conf, multi_label)

        return decode
