"""Classifiers of whole images: YOLOv8-cls, YOLO11-cls, YOLO26-cls, and others whose outputs are probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import CENTERED, POSSIBLE, SHAPES, Evidence, Head, Layout, Sample, Task
from edgesparse.runtime.heads.candidates import labeled


class Classifier(Head):
    """A detection per class that reaches the threshold; its box is the part of the frame that the network sees."""

    outputs = "one output [B, C]: the probability of each class, after the softmax"
    export = "yolo export model=best-cls.pt format=onnx opset=17"
    source = "Ultralytics, https://docs.ultralytics.com/tasks/classify"
    task: ClassVar[Task] = "classify"
    nms = False
    convention = CENTERED.model_copy(update={"letterbox": "crop"})

    @property
    def per_class(self) -> bool:
        return True

    def fits(self, layout: Layout) -> bool:
        return len(layout.outputs) == 1 and len(layout.shapes[0]) == 2

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.fits(layout):
            return None
        if sample is None:
            return Evidence(POSSIBLE, "one number per class")
        if not np.allclose(sample[0].astype(np.float64).sum(axis=1), 1, atol=0.01) or sample[0].min() < 0:
            return None
        return Evidence(SHAPES, f"{layout.shapes[0][1]} probabilities that add up to 1")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[0][1]

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        whole = np.array([[0, 0, layout.size[1], layout.size[0]]], np.float32)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            return labeled(whole, outputs[0][image][None], conf, multi_label)

        return decode
