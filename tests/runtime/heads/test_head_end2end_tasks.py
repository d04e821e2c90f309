"""Lists of final objects with masks, keypoints and angles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import Case
from head_checks import SIZE, layout

from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.recognize import check, choose
from edgesparse.runtime.heads.registry import head

SHAPES = {
    "end2end-seg": layout({"output0": (1, 300, 38), "output1": (1, 32, 160, 160)}),
    "end2end-pose": replace(layout({"output0": (1, 300, 21)}), keypoints=(5, 3)),
    "end2end-obb": layout({"output0": (1, 300, 7)}),
}
TASKS = {"end2end-seg": "segment", "end2end-pose": "pose", "end2end-obb": "obb"}


@pytest.mark.parametrize(("name", "at"), SHAPES.items())
def test_shape_and_task_tell_it(name: str, at: Layout) -> None:
    assert choose(at, {"task": TASKS[name]}) == name
    check(name, at)
    assert head(name).classes(at) is None and not head(name).nms and not head(name).per_class
    assert head(name).strided(at) is None


@pytest.mark.parametrize(("name", "at"), SHAPES.items())
def test_each_row_is_a_box_with_its_details(name: str, at: Layout) -> None:
    outputs = [np.zeros(shape, np.float32) for shape in at.shapes]
    width = at.shapes[0][2]
    outputs[0][0, 4] = (10, 20, 30, 60, 0.9, 2, *np.arange(6, width))
    outputs[0][0, 9] = (10, 20, 30, 60, 0.8, 1.5, *np.arange(6, width))
    boxes, confidence, class_id = head(name).decode(at, 0.25)(outputs, 0)
    expected = [-5, -10, 25, 50] if name == "end2end-obb" else [10, 20, 30, 60]
    assert boxes[0].tolist() == [*expected, *range(6, width)] and class_id.tolist() == [2, -1]
    assert confidence.tolist() == pytest.approx([0.9, 0.8])


def _list(name: str, details: int, **outputs: np.ndarray) -> Case:
    """Three objects; rotated boxes are written as center and size."""
    rows = np.zeros((1, 30, 6 + details), np.float32)
    expected = ((8, 8, 24, 40, 0.9, 1), (40, 4, 80, 60, 0.75, 0), (30, 20, 50, 44, 0.5, 2))
    for row, (x1, y1, x2, y2, score, label) in zip(rows[0], expected, strict=False):
        box = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) if name == "end2end-obb" else (x1, y1, x2, y2)
        row[:6] = (*box, score, label)
        row[6:] = name == "end2end-seg"
    metadata = {"task": TASKS[name], **({"kpt_shape": "[5, 3]"} if name == "end2end-pose" else {})}
    return Case(name, {"output0": rows, **outputs}, expected, SIZE, metadata=metadata)


CASES = [
    _list("end2end-seg", 32, output1=np.ones((1, 32, SIZE[0] // 4, SIZE[1] // 4), np.float32)),
    _list("end2end-pose", 15),
    _list("end2end-obb", 1),
]
