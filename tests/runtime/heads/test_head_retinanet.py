"""torchvision's RetinaNet: nine anchors per cell, offsets and logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import CONF, Case, Values, best, logit, noise, scores, sigma

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head


def retina(seed: int, size: tuple[int, int], classes: int = 3) -> Case:
    """As in the paper and torchvision: the spacing of cells is the side divided by their number, rounded down."""
    anchors: list[tuple[float, float, float, float]] = []
    for level, stride in enumerate((8, 16, 32, 64, 128)):
        rows, columns = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        base = 32 * 2**level
        for y in range(rows):
            for x in range(columns):
                for ratio in (0.5, 1.0, 2.0):
                    for length in (base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))):
                        half = round(length / math.sqrt(ratio) / 2), round(length * math.sqrt(ratio) / 2)
                        anchors.append((x * (size[1] // columns), y * (size[0] // rows), *half))
    raw, chances = noise(seed, 1, len(anchors), 4, scale=0.4), scores(seed, 1, len(anchors), 1 + classes)
    chances[..., 0] = 0.9  # the background
    logits = logit(chances)
    expected: list[Values] = []
    for (cx, cy, w, h), offset, row in zip(anchors, raw[0].tolist(), logits[0].tolist(), strict=True):
        score, label = best(lambda c, r=row: sigma(r[1 + c]), classes)  # type: ignore[misc]
        if score >= CONF:
            mx, my = cx + offset[0] * 2 * w, cy + offset[1] * 2 * h
            hw, hh = w * math.exp(offset[2]), h * math.exp(offset[3])
            expected.append((mx - hw, my - hh, mx + hw, my + hh, score, label))
    return Case("retinanet", {"cls_logits": logits, "bbox_regression": raw}, tuple(expected), size)


CASES = [retina(1, (64, 96)), retina(2, (256, 200))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_scores_after_the_sigmoid_are_refused() -> None:
    with pytest.raises(ModelError, match="no known head"):
        outputs = dict(CASES[0].outputs)
        choose(CASES[0].layout, {}, [np.full_like(outputs["cls_logits"], 0.5), outputs["bbox_regression"]])


def test_its_background_is_no_class() -> None:
    assert head("retinanet").classes(CASES[0].layout) == 3 and head("retinanet").coco_ids == range(1, 91)
