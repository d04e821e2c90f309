"""CenterNet: peaks of a heat map, sizes and offsets."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CONF, Case, Values, logit, noise, scores
from head_checks import SIZE, layout

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head

ROWS, COLUMNS = SIZE[0] // 4, SIZE[1] // 4


def peaks(name: str, seed: int, classes: int = 3) -> Case:
    heat = scores(seed, 1, classes, ROWS, COLUMNS)
    sides, offsets = np.abs(noise(seed, 1, 2, ROWS, COLUMNS, scale=4)), scores(seed, 1, 2, ROWS, COLUMNS)
    expected: list[Values] = []
    for label in range(classes):
        for y in range(ROWS):
            for x in range(COLUMNS):
                score = float(heat[0, label, y, x])
                around = heat[0, label, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                if score >= CONF and score == around.max():
                    cx, cy = x + float(offsets[0, 0, y, x]), y + float(offsets[0, 1, y, x])
                    w, h = float(sides[0, 0, y, x]), float(sides[0, 1, y, x])
                    box = (4 * (cx - w / 2), 4 * (cy - h / 2), 4 * (cx + w / 2), 4 * (cy + h / 2))
                    expected.append((*box, score, label))
    raw = heat if name.endswith("scores") else logit(heat)
    return Case(name, {"hm": raw, "wh": sides, "reg": offsets}, tuple(expected))


CASES = [peaks("centernet", 1), peaks("centernet-scores", 2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_names_decide_over_the_order() -> None:
    case = CASES[0]
    order = ("reg", "hm", "wh")
    Case(case.head, {name: case.outputs[name] for name in order}, case.expected).check()


def test_without_a_sample_it_is_taken_to_be_before_the_sigmoid() -> None:
    at = layout({"hm": (1, 80, 128, 128), "wh": (1, 2, 128, 128), "reg": (1, 2, 128, 128)}, (512, 512))
    assert choose(at, {}) == "centernet" and head("centernet").classes(at) == 80


def test_sizes_of_another_depth_are_refused() -> None:
    with pytest.raises(ModelError, match="raw feature maps"):
        choose(layout({"hm": (1, 80, 16, 24), "wh": (1, 4, 16, 24), "reg": (1, 2, 16, 24)}, SIZE), {})
