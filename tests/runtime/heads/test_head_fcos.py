"""torchvision's FCOS: distances in strides, logits and centerness."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import CONF, Case, Values, best, cells, logit, noise, scores, sigma

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose

STRIDES = (8, 16, 32, 64, 128)


def fcos(seed: int, size: tuple[int, int], classes: int = 3) -> Case:
    rows = sum(len([*cells(size, stride)]) for stride in STRIDES)
    distances = np.abs(noise(seed, 1, rows, 4, scale=2))
    logits, centerness = logit(scores(seed, 1, rows, 1 + classes) ** 0.5), logit(scores(seed + 1, 1, rows, 1) ** 0.3)
    logits[..., 0] = 3
    expected: list[Values] = []
    first = 0
    for stride in STRIDES:
        step = size[1] // math.ceil(size[1] / stride), size[0] // math.ceil(size[0] / stride)
        for number, x, y in cells(size, stride):
            row, center = logits[0, first + number].tolist(), float(centerness[0, first + number, 0])
            score, label = best(lambda c, r=row, t=center: math.sqrt(sigma(r[1 + c]) * sigma(t)), classes)  # type: ignore[misc]
            if score >= CONF:
                left, top, right, bottom = (stride * value for value in distances[0, first + number].tolist())
                at = x * step[0], y * step[1]
                expected.append((at[0] - left, at[1] - top, at[0] + right, at[1] + bottom, score, label))
        first += number + 1
    outputs = {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": centerness}
    return Case("fcos", outputs, tuple(expected), size)


CASES = [fcos(1, (64, 96)), fcos(2, (256, 200))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_scores_after_the_sigmoid_are_refused() -> None:
    outputs = [1 / (1 + np.exp(-np.asarray(raw, np.float32))) for raw in CASES[0].outputs.values()]
    with pytest.raises(ModelError, match="no known head"):
        choose(CASES[0].layout, {}, outputs)
