"""RetinaFace: offsets from priors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import CONF, Case, Values, cells, noise, scores

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose

PRIORS = {8: (16, 32), 16: (64, 128), 32: (256, 512)}


def faces(seed: int, size: tuple[int, int]) -> Case:
    """Priors as shares of the image, with variances 0.1 and 0.2, as in SSD."""
    priors = []
    for stride, sides in PRIORS.items():
        for _, x, y in cells(size, stride):
            center = (x + 0.5) * stride / size[1], (y + 0.5) * stride / size[0]
            priors += [(*center, length / size[1], length / size[0]) for length in sides]
    offsets, face = noise(seed, 1, len(priors), 4), scores(seed, 1, len(priors), 1)
    expected: list[Values] = []
    for (cx, cy, w, h), (dx, dy, dw, dh), score in zip(
        priors, offsets[0].tolist(), face[0, :, 0].tolist(), strict=True
    ):
        if score >= CONF:
            mx, my = cx + dx * 0.1 * w, cy + dy * 0.1 * h
            hw, hh = w * math.exp(dw * 0.2) / 2, h * math.exp(dh * 0.2) / 2
            box = ((mx - hw) * size[1], (my - hh) * size[0], (mx + hw) * size[1], (my + hh) * size[0])
            expected.append((*box, score, 0))
    outputs = {
        "input0": offsets,
        "output0": np.concatenate([1 - face, face], 2),
        "590": noise(seed, 1, len(priors), 10),
    }
    return Case("retinaface", outputs, tuple(expected), size)


CASES = [faces(1, (64, 96)), faces(2, (100, 90))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_scores_before_the_softmax_are_refused() -> None:
    case = CASES[0]
    with pytest.raises(ModelError, match="no known head"):
        choose(case.layout, {}, [np.asarray(raw, np.float32) * 5 for raw in case.outputs.values()])
