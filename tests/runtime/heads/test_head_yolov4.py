"""YOLOv4 as pytorch-YOLOv4 exports it: relative corners, and confidences per class."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CONF, Case, best, scores
from head_checks import ROWS, SIZE, layout

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head


def darknet(rows: int, seed: int = 1, classes: int = 3) -> Case:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 0.5, (rows, 2))
    boxes = np.concatenate([corner, corner + random.uniform(0.1, 0.5, (rows, 2))], 1).astype(np.float32)
    confs = scores(seed, 1, rows, classes)
    expected = []
    for (x1, y1, x2, y2), row in zip(boxes.tolist(), confs[0].tolist(), strict=True):
        score, label = best(row.__getitem__, classes)
        if score >= CONF:
            expected.append((x1 * SIZE[1], y1 * SIZE[0], x2 * SIZE[1], y2 * SIZE[0], score, label))
    return Case("yolov4", {"boxes": boxes[None, :, None], "confs": confs}, tuple(expected))


CASES = [darknet(3 * ROWS), darknet(3 * 30)]
"""YOLOv4, and YOLOv4-tiny at strides 16 and 32."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_another_number_of_rows_is_refused() -> None:
    with pytest.raises(ModelError, match="no known head"):
        choose(layout({"boxes": (1, 1000, 1, 4), "confs": (1, 1000, 80)}), {})
    assert head("yolov4").classes(layout({"boxes": (1, 22743, 1, 4), "confs": (1, 22743, 80)}, (608, 608))) == 80
