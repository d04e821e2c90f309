"""Non-maximum suppression against the simplest implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.runtime.nms import nms

Row = tuple[int, int, int, int, float, int]
"""x, y, width, height, confidence, class."""
rows = st.lists(
    st.tuples(
        st.integers(-20, 60),
        st.integers(-20, 60),
        st.integers(1, 40),
        st.integers(1, 40),
        st.sampled_from([0.001, 0.25, 0.5, 0.5, 0.75, 0.9, 1.0]),
        st.integers(0, 2),
    ),
    max_size=25,
)
ious = st.sampled_from([0.0, 0.1, 0.45, 0.65, 0.7, 1.0])


def arrays(rows: list[Row]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    table = np.array(rows, np.float64).reshape(-1, 6)
    xyxy = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1).astype(np.float32)
    return xyxy, table[:, 4].astype(np.float32), table[:, 5].astype(np.int64)


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def naive(
    xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64], iou: float, agnostic: bool
) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-confidence, kind="stable").tolist():
        rivals = [k for k in kept if agnostic or class_id[k] == class_id[i]]
        if all(overlap(xyxy[k], xyxy[i]) <= iou for k in rivals):
            kept.append(i)
    return kept


@given(rows, ious, st.booleans(), st.integers(1, 30))
@example([(0, 0, 10, 10, 0.9, 0)] * 3, 0.7, False, 300)
@example([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 1)], 0.7, False, 300)
@example([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 1)], 0.7, True, 300)
@example([], 0.7, False, 300)
def test_it_keeps_what_the_definition_keeps(candidates: list[Row], iou: float, agnostic: bool, max_det: int) -> None:
    xyxy, confidence, class_id = arrays(candidates)
    pairs = [overlap(a, b) for i, a in enumerate(xyxy) for b in xyxy[:i]]
    assume(all(value in (0, 1) or abs(value - iou) > 1e-5 for value in pairs))  # at the threshold, rounding decides
    kept = nms(xyxy, confidence, class_id, iou, max_det, agnostic)
    assert kept.tolist() == naive(xyxy, confidence, class_id, iou, agnostic)[:max_det]


@given(rows, ious, st.integers(1, 30), st.booleans())
@example([(0, 0, 10, 10, 0.5, 0)] * 13, 0.7, 300, False)
def test_few_boxes_are_suppressed_as_many_are(candidates: list[Row], iou: float, max_det: int, flat: bool) -> None:
    """One by one, and by OpenCV: ties, boxes with zero area, and the number of boxes kept."""
    xyxy, confidence, class_id = arrays(candidates)
    if flat:
        xyxy[::2, 2], class_id = xyxy[::2, 0], class_id * 0
    pairs = [overlap(a, b) for i, a in enumerate(xyxy) for b in xyxy[:i] if (a[2:] > a[:2]).all()]
    assume(all(value in (0, 1) or abs(value - iou) > 1e-5 for value in pairs))
    with pytest.MonkeyPatch.context() as patch:
        kept = []
        for few in (0, 100):
            patch.setattr("edgesparse.runtime.nms.FEW", few)
            kept.append(nms(xyxy, confidence, class_id, iou, max_det).tolist())
    assert kept[0] == kept[1]


@given(rows, ious, st.booleans(), st.integers(1, 30))
@example([(0, 0, 10, 10, 0.5, 0), (0, 0, 10, 10, 0.5, 1)] * 13, 0.7, False, 300)
def test_boxes_in_blocks_are_suppressed_as_all_together(
    candidates: list[Row], iou: float, agnostic: bool, max_det: int
) -> None:
    xyxy, confidence, class_id = arrays(candidates)
    pairs = [overlap(a, b) for i, a in enumerate(xyxy) for b in xyxy[:i]]
    assume(all(value in (0, 1) or abs(value - iou) > 1e-5 for value in pairs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgesparse.runtime.nms.FEW", 0)
        kept = []
        for many in (3, 100):
            patch.setattr("edgesparse.runtime.nms.MANY", many)
            kept.append(nms(xyxy, confidence, class_id, iou, max_det, agnostic).tolist())
    assert kept[0] == kept[1]


@pytest.mark.parametrize("few", [0, 100])
@pytest.mark.parametrize("class_id", [79, 9999])
def test_boxes_of_far_apart_classes_keep_their_exact_overlap(
    class_id: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes are moved apart internally: in float32 the boxes would lose precision."""
    monkeypatch.setattr("edgesparse.runtime.nms.FEW", few)
    xyxy = np.array([[0, 0, 1000, 1000], [0, 0, 1000, 699.5], [0, 0, 1000, 700.5]], np.float32)
    labels = np.array([class_id] * 3)
    assert nms(xyxy, np.array([0.9, 0.8, 0.7], np.float32), labels, 0.7, 300).tolist() == [0, 1]


@pytest.mark.parametrize("few", [0, 100])
def test_only_the_best_candidates_take_part(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesparse.runtime.nms.FEW", few)
    monkeypatch.setattr("edgesparse.runtime.nms.MAX_CANDIDATES", 3)
    monkeypatch.setattr("edgesparse.runtime.nms.MANY", 2)
    x = np.arange(5, dtype=np.float32) * 20
    apart = np.stack([x, x * 0, x + 10, x * 0 + 10], 1)
    kept = nms(apart, np.array([0.1, 0.5, 0.9, 0.3, 0.7], np.float32), np.zeros(5, np.int64), 0.7, 300)
    assert kept.tolist() == [2, 4, 1]
