"""UltraFace: decoded priors of faces."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Case, of_boxes
from head_checks import Box, layout

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head

OUTPUTS = {"scores": (1, 4420, 2), "boxes": (1, 4420, 4)}
SIZE = (240, 320)


def test_another_number_of_priors_is_refused() -> None:
    with pytest.raises(ModelError, match="no known head"):
        choose(layout({"scores": (1, 4421, 2), "boxes": (1, 4421, 4)}, SIZE), {})


def _faces() -> Case:
    scores, boxes = np.zeros((1, 4420, 2), np.float32), np.zeros((1, 4420, 4), np.float32)
    scores[..., 0] = 1
    scores[0, 7], boxes[0, 7] = (0.1, 0.9), (0.25, 0.5, 0.5, 0.75)
    return of_boxes("ultraface", layout(OUTPUTS, SIZE), [scores, boxes], [Box(7, (80, 120, 160, 180), 0, 0.9)])


CASES = [_faces()]


def test_faces_come_back_in_pixels() -> None:
    case = CASES[0]
    case.check()
    assert head("ultraface").classes(case.layout) == 1
