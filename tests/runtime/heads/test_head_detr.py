"""The first DETR: a softmax over the classes and no object, in the layout of RT-DETR's sigmoid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cases import written
from head_checks import Box, HeadChecks, Outputs, layout, relative, scores_of

from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head


class TestDetr(HeadChecks):
    name = "detr"
    exact = False
    per_class = True
    by_shapes = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = scores_of(boxes, classes)
        empty = 1 - scores.sum(axis=1, keepdims=True)
        shares = np.clip(np.concatenate([scores, empty], 1), 1e-9, 1)
        return {"logits": np.log(shares) + 5, "pred_boxes": relative(boxes)}


CASES = [written(TestDetr())]


def test_queries_without_an_object_tell_it_from_rtdetr() -> None:
    """In a layout that both have: RT-DETR's queries without an object are low in every class."""
    at = layout({"logits": (1, 100, 92), "pred_boxes": (1, 100, 4)})
    boxes, logits = np.full((1, 100, 4), 0.5, np.float32), np.full((1, 100, 92), -6, np.float32)
    assert choose(at, {}, [logits, boxes]) == "rtdetr"
    logits[:, 10:, -1] = 4
    assert choose(at, {}, [logits, boxes]) == "detr"
    assert head("detr").classes(at) == 91 and head("detr").coco_ids == range(91)
