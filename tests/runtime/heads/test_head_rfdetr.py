"""RF-DETR: boxes and logits of queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cases import written
from head_checks import Box, Outputs, PerClassChecks, layout, relative, scores_of

from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head


class TestRfDetr(PerClassChecks):
    name = "rf-detr"
    exact = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = np.clip(scores_of(boxes, classes), 1e-9, 1 - 1e-9)
        return {"dets": relative(boxes), "labels": np.log(scores / (1 - scores))}


CASES = [written(TestRfDetr())]


def test_a_file_trained_on_coco_counts_category_ids() -> None:
    at = layout({"dets": (1, 300, 4), "labels": (1, 300, 91)}, (384, 384))
    assert choose(at, {}) == "rf-detr"
    assert head("rf-detr").classes(at) == 91 and head("rf-detr").coco_ids == range(91)
    assert head("rf-detr").convention.letterbox == "stretch" and head("rf-detr").convention.mean[0] == 0.485
