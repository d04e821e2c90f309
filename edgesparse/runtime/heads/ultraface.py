"""UltraFace: faces, exported with decoded boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import SHAPES, STRETCHED, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled

PRIORS = ((8, 3), (16, 2), (32, 2), (64, 3))
"""(stride, priors per cell)."""


def _priors(size: tuple[int, int]) -> int:
    return sum(-(-size[0] // stride) * -(-size[1] // stride) * count for stride, count in PRIORS)


class UltraFace(Head):
    """One class besides the background."""

    outputs = "two outputs, scores [B, N, 2] (background, face) after the softmax and boxes [B, N, 4], relative xyxy"
    export = "python convert_to_onnx.py"
    source = "https://github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, vision/ssd/predictor.py"
    convention = STRETCHED.model_copy(update={"scale": 1.0, "mean": (127.0,) * 3, "std": (128.0,) * 3})

    def fits(self, layout: Layout) -> bool:
        boxes = layout.boxes()
        return len(layout.outputs) == 2 and layout.shapes[1 - boxes] == (*layout.shapes[boxes][:2], 2)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout) or layout.shapes[0][1] != _priors(layout.size):
            return None
        scores = None if sample is None else sample[1 - layout.boxes()]
        if scores is not None and not np.allclose(scores.sum(axis=-1), 1, atol=0.01):
            return None
        return Evidence(SHAPES, f"boxes and two scores for each of its {_priors(layout.size)} priors")

    def classes(self, layout: Layout) -> int:
        return 1

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        boxes = layout.boxes()
        pixels = np.array([layout.size[1], layout.size[0]] * 2, np.float32)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            scores = outputs[1 - boxes][image][:, 1:]
            keep = at_least(scores[:, 0], conf)
            xyxy = outputs[boxes][image][keep].astype(np.float32) * pixels
            return labeled(xyxy, scores[keep], conf, multi_label)

        return decode
