"""SSD and EfficientDet of TensorFlow's Object Detection API, with its four outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Decode
from edgesparse.runtime.heads.base import SHAPES, STRETCHED, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import listed

_NAMES = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


class TensorFlowDetection(Head):
    """A list of final boxes in relative coordinates, y before x; classes start at 1 in the file and at 0 here."""

    outputs = (
        "four outputs, detection_boxes [B, K, 4] as relative y1, x1, y2, x2, detection_scores and detection_classes "
        "[B, K], num_detections [B]"
    )
    export = "python -m tf2onnx.convert --saved-model saved_model --output model.onnx --inputs-as-nchw input_tensor:0"
    source = "https://github.com/tensorflow/models, research/object_detection/exporter_lib_v2.py"
    nms = False
    convention = STRETCHED.model_copy(update={"scale": 1.0})
    coco_ids = range(1, 91)

    def fits(self, layout: Layout) -> bool:
        return len(layout.outputs) == 4 and len({layout.index(name=name) for name in _NAMES}) == 4

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        fits = self.can_read(layout) and sorted(map(len, layout.shapes)) == [1, 2, 2, 3]
        return Evidence(SHAPES, "the four outputs of TensorFlow's Object Detection API, by name") if fits else None

    def classes(self, layout: Layout) -> None:
        return None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        boxes, scores, labels, count = (layout.index(name=name) for name in _NAMES)
        pixels = np.array([layout.size[1], layout.size[0]] * 2, np.float32)

        def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
            length = float(outputs[count].reshape(-1)[b])
            n = int(length) if np.isfinite(length) else len(outputs[scores][b])  # NaN is counted later
            xyxy = outputs[boxes][b, :n][:, [1, 0, 3, 2]].astype(np.float32) * pixels
            return xyxy, outputs[scores][b, :n], outputs[labels][b, :n] - 1

        return listed(rows, conf)
