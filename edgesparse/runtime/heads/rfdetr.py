"""RF-DETR."""

from __future__ import annotations

from edgesparse.runtime.heads.base import IMAGENET, VALUES, Evidence, Layout, Sample
from edgesparse.runtime.heads.rtdetr import RtDetr


class RfDetr(RtDetr):
    """Boxes and logits with different names; files trained on COCO have a column per category id from 0 to 90."""

    outputs = "two outputs, dets [B, N, 4] as relative center and size and labels [B, N, C], before the sigmoid"
    export = "RFDETRNano(pretrain_weights='best.pth').export()"
    source = "Robinson et al., RF-DETR, and https://github.com/roboflow/rf-detr, rfdetr/deploy/export.py"
    convention = IMAGENET.model_copy(update={"letterbox": "stretch"})
    coco_ids = range(91)

    def fits(self, layout: Layout) -> bool:
        return len(layout.outputs) == 2 and super().fits(layout)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if [len(shape) for shape in layout.shapes] != [3, 3] or {spec.name for spec in layout.outputs} != {
            "dets",
            "labels",
        }:
            return None
        return Evidence(VALUES, "outputs named dets and labels, with a row per query")
