"""Two lists of boxes, most confident first, whose confidences were rounded differently."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import FrameBoxes

EQUAL = 2e-6
"""Confidences no further apart may come in any order: NumPy's tanh and a GPU's differ by some units in the last place.
"""


def paired(
    ours: FrameBoxes, boxes: NDArray[Any], confidence: NDArray[Any], labels: NDArray[Any], case: object
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The boxes of both lists, [n, k] each, in one order. Raises AssertionError if confidences or classes differ."""
    np.testing.assert_allclose(ours.confidence, confidence, rtol=1e-5, err_msg=str(case))
    level = np.cumsum(np.abs(np.diff(confidence, prepend=confidence[:1])) > EQUAL)
    first, second = (
        np.lexsort((xyxy[:, :4].sum(axis=1), of, level)) for xyxy, of in ((ours.xyxy, ours.class_id), (boxes, labels))
    )
    assert ours.class_id[first].tolist() == labels[second].tolist(), (case, ours.confidence, confidence)
    return ours.xyxy[first], boxes[second]
