"""Networks that end in TensorRT's EfficientNMS plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from edgesparse.backends.frames import Decode
from edgesparse.runtime.heads.base import SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import listed


class EfficientNms(Head):
    """A list of final boxes with its length; the rest of the list is undefined."""

    outputs = "four outputs, count [B, 1], boxes [B, K, 4] as xyxy in pixels, scores [B, K], classes [B, K]"
    export = "python export.py --weights best.pt --grid --end2end (YOLOv7)"
    source = "https://github.com/NVIDIA/TensorRT, plugin/efficientNMSPlugin"
    nms = False

    def fits(self, layout: Layout) -> bool:
        return len(layout.outputs) == 4 and layout.index(last=1, ndim=2) != layout.boxes()

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        shapes = layout.shapes
        if sorted(map(len, shapes)) != [2, 2, 2, 3] or not any(shape[-1] == 1 for shape in shapes):
            return None
        return Evidence(SHAPES, "a count, boxes, scores and classes")

    def classes(self, layout: Layout) -> None:
        return None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        count, box = layout.index(last=1, ndim=2), layout.boxes()
        flat = [i for i in range(4) if i not in (count, box)]
        score = next((i for i in flat if "score" in layout.outputs[i].name), flat[0])
        label = next(i for i in flat if i != score)

        def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
            n = int(outputs[count][b, 0])
            return outputs[box][b, :n], outputs[score][b, :n], outputs[label][b, :n]

        return listed(rows, conf)
