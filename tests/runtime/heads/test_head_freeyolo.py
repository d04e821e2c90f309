"""FreeYOLO: rows without a batch axis, offsets from the center of each cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import CONF, Case, Values, best, cells, noise, scores
from head_checks import SIZE, layout

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose


def free(seed: int, classes: int = 3) -> Case:
    rows = sum(len([*cells(SIZE, stride)]) for stride in (8, 16, 32))
    raw = np.concatenate([noise(seed, rows, 4, scale=0.5), scores(seed, rows, 1 + classes)], 1)
    expected: list[Values] = []
    first = 0
    for stride in (8, 16, 32):
        for number, x, y in cells(SIZE, stride):
            dx, dy, width, height, objectness, *of_class = raw[first + number].astype(np.float64).tolist()
            score, label = best(lambda c, o=objectness, s=of_class: math.sqrt(o * s[c]), classes)  # type: ignore[misc]
            if score >= CONF:
                middle = (x + 0.5 + dx) * stride, (y + 0.5 + dy) * stride
                half = math.exp(width) * stride / 2, math.exp(height) * stride / 2
                box = (middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1])
                expected.append((*box, score, label))
        first += number + 1
    return Case("freeyolo", {"output": raw}, tuple(expected))


CASES = [free(1)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_logits_are_another_family() -> None:
    with pytest.raises(ModelError, match="this looks like a classifier"):
        choose(layout({"output": (126, 8)}, SIZE), {}, [noise(1, 126, 8)])
