"""RTMDet, and other detectors of MMDetection, exported by MMDeploy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from edgesparse.backends.frames import Decode
from edgesparse.runtime.heads.base import CENTERED, SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import listed


class RtmDet(Head):
    """A list of final boxes with their scores; unused rows have score 0 and class -1."""

    outputs = "two outputs, dets [B, K, 5] as x1, y1, x2, y2 in pixels and score, and labels [B, K]"
    export = (
        "python tools/deploy.py configs/mmdet/detection/detection_onnxruntime_static.py rtmdet.py best.pth image.jpg"
    )
    source = "Lyu et al., RTMDet, and https://github.com/open-mmlab/mmdeploy, mmdeploy/codebase/mmdet"
    nms = False
    convention = CENTERED.model_copy(
        update={
            "letterbox": "top-left",
            "colour": "bgr",
            "scale": 1.0,
            "mean": (103.53, 116.28, 123.675),
            "std": (57.375, 57.12, 58.395),
        }
    )

    def fits(self, layout: Layout) -> bool:
        return sorted(map(len, layout.shapes)) == [2, 3] and self._dets(layout) != layout.index(ndim=2)

    def _dets(self, layout: Layout) -> int:
        return layout.index(ndim=3, last=5)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        return Evidence(SHAPES, "a list of five columns, and a list of labels") if self.can_read(layout) else None

    def classes(self, layout: Layout) -> None:
        return None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        dets = self._dets(layout)

        def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
            return outputs[dets][b, :, :4], outputs[dets][b, :, 4], outputs[1 - dets][b]

        return listed(rows, conf)
