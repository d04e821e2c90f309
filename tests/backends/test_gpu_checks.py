"""How the checks on a real GPU compare two lists of boxes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgesparse.backends.frames import FrameBoxes

sys.path.append(str(Path(__file__).parents[1] / "gpu"))

from ties import paired

BOXES = np.array([[10, 0, 20, 9], [40, 0, 50, 9], [30, 0, 44, 9]], np.float32)
CONFIDENCE = np.array([0.6684281, 0.66842806, 0.5], np.float32)
LABELS = np.array([5, 2, 4])


def test_only_equal_confidences_may_come_in_another_order() -> None:
    swapped = [1, 0, 2]
    ours = FrameBoxes(BOXES[swapped] + 0.01, CONFIDENCE, LABELS[swapped], final=True)
    mine, right = paired(ours, BOXES, CONFIDENCE, LABELS, "a case")
    np.testing.assert_allclose(mine, right, atol=0.02)
    with pytest.raises(AssertionError, match="a case"):
        paired(ours._replace(class_id=LABELS[[0, 2, 1]]), BOXES, CONFIDENCE, LABELS, "a case")
    with pytest.raises(AssertionError, match="a case"):
        paired(ours._replace(confidence=CONFIDENCE[::-1]), BOXES, CONFIDENCE, LABELS, "a case")
