"""YuNet: twelve outputs of faces."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import CONF, Case, Values, cells, noise, scores
from head_checks import SIZE, layout

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose


def faces(seed: int) -> Case:
    """The formula of OpenCV's face_detect.cpp."""
    outputs, expected = {}, list[Values]()
    for stride in (8, 16, 32):
        count = len([*cells(SIZE, stride)])
        outputs[f"cls_{stride}"] = scores(seed + stride, 1, count, 1) ** 0.5
        outputs[f"obj_{stride}"] = scores(seed + stride + 1, 1, count, 1) ** 0.5
        outputs[f"bbox_{stride}"] = noise(seed + stride, 1, count, 4, scale=0.5)
        outputs[f"kps_{stride}"] = noise(seed + stride, 1, count, 10)
        for number, x, y in cells(SIZE, stride):
            score = math.sqrt(
                float(outputs[f"cls_{stride}"][0, number, 0]) * float(outputs[f"obj_{stride}"][0, number, 0])
            )
            if score >= CONF:
                dx, dy, dw, dh = outputs[f"bbox_{stride}"][0, number].tolist()
                cx, cy, w, h = (x + dx) * stride, (y + dy) * stride, math.exp(dw) * stride, math.exp(dh) * stride
                expected.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score, 0))
    kinds = ("cls", "obj", "bbox", "kps")
    ordered = {f"{kind}_{stride}": outputs[f"{kind}_{stride}"] for kind in kinds for stride in (8, 16, 32)}
    return Case("yunet", ordered, tuple(expected))


CASES = [faces(1)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_scores_beyond_one_are_another_family() -> None:
    case = CASES[0]
    with pytest.raises(ModelError, match="no known head"):
        choose(case.layout, {}, [np.asarray(raw, np.float32) + 3 for raw in case.outputs.values()])


def test_without_points_it_is_refused() -> None:
    shapes = {
        f"{kind}{n}": (1, n, columns) for n in (96, 24, 6) for kind, columns in zip("abcd", (1, 1, 4, 8), strict=True)
    }
    with pytest.raises(ModelError, match="no known head"):
        choose(layout(shapes, SIZE), {})
