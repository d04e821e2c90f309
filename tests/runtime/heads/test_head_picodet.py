"""PicoDet, exported without decoding: distributions of distances at four strides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import CONF, Case, Values, best, cells, noise, scores


def pico(seed: int, size: tuple[int, int], classes: int = 4) -> Case:
    outputs, expected = {}, list[Values]()
    for stride in (8, 16, 32, 64):
        count = len([*cells(size, stride)])
        outputs[f"cls_{stride}"] = scores(seed + stride, 1, count, classes)
        outputs[f"reg_{stride}"] = noise(seed + stride, 1, count, 32, scale=2)
        for number, x, y in cells(size, stride):
            score, label = best(lambda c, n=number, s=stride: float(outputs[f"cls_{s}"][0, n, c]), classes)  # type: ignore[misc]
            if score < CONF:
                continue
            sides = []
            for bins in np.split(outputs[f"reg_{stride}"][0, number].astype(np.float64), 4):
                weights = [math.exp(value) for value in bins]
                sides.append(stride * sum(i * weight for i, weight in enumerate(weights)) / sum(weights))
            middle = (x + 0.5) * stride, (y + 0.5) * stride
            box = (middle[0] - sides[0], middle[1] - sides[1], middle[0] + sides[2], middle[1] + sides[3])
            expected.append((*box, score, label))
    order = sorted(outputs)  # all scores, then all distances, as Paddle writes them
    return Case("picodet", {name: outputs[name] for name in order}, tuple(expected), size)


CASES = [pico(1, (96, 160)), pico(2, (104, 136), 2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()
