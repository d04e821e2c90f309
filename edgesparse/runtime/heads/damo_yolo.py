"""DAMO-YOLO."""

from __future__ import annotations

from edgesparse.runtime.heads.base import CENTERED, Evidence, Layout, Sample
from edgesparse.runtime.heads.yolo_nas import BoxesAndScores


class DamoYolo(BoxesAndScores):
    """Like YOLO-NAS, but with the outputs in reverse order and no name for the boxes."""

    outputs = "two outputs, scores [B, N, C] after the sigmoid, then boxes [B, N, 4] as xyxy in pixels"
    export = "python tools/converter.py -f damoyolo.py -c best.pth --batch_size 1 --img_size 640"
    source = "Xu et al., DAMO-YOLO, and https://github.com/tinyvision/DAMO-YOLO, damo/base_models/heads/zero_head.py"
    convention = CENTERED.model_copy(update={"letterbox": "top-left", "pad": 0, "scale": 1.0})

    def order(self, layout: Layout) -> tuple[int, int]:
        return 1, 0

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if any("box" in spec.name.lower() for spec in layout.outputs):
            return None
        seen = super().evidence(layout, sample)
        ambiguous = seen is not None and self.classes(layout) == 4 and sample is None
        return None if ambiguous else seen
