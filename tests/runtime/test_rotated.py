"""Rotated boxes: corners, canonical form, overlap against plain geometry, suppression."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.runtime.rotated import canonical, corners_of, gaussian_overlap, overlap, suppress

boxes = st.tuples(
    st.floats(0, 100, width=32),
    st.floats(0, 100, width=32),
    st.floats(4, 50, width=32),
    st.floats(4, 50, width=32),
    st.floats(-4, 4, width=32),
).map(lambda box: np.array([box], np.float32))


def test_angles_turn_the_x_axis_down() -> None:
    corners = corners_of(np.array([[10, 20, 8, 4, np.pi / 2]], np.float32))[0]
    assert sorted(map(tuple, np.rint(corners).tolist())) == [(8, 16), (8, 24), (12, 16), (12, 24)]


@given(boxes)
@example(np.array([[0, 0, 29.0546875, 46.0625, -0.17775218188762665]], np.float32))
def test_the_one_form_is_the_same_box(box: NDArray[np.float32]) -> None:
    same = canonical(box)
    assert -1e-6 <= same[0, 4] < np.pi / 2 + 1e-6 and same.dtype == np.float32
    first, second = (np.array(sorted(map(tuple, np.round(corners_of(each)[0], 1)))) for each in (box, same))
    assert np.abs(first - second).max() < 60  # sorting may swap corners of equal x
    assert overlap(box, same)[0, 0] > 0.999


@settings(max_examples=20)
@given(boxes, boxes)
def test_overlap_is_the_share_of_pixels(first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    iou = overlap(first, second)
    assert iou.shape == (1, 1) and 0 <= iou[0, 0] <= 1
    assert iou[0, 0] == pytest.approx(overlap(second, first)[0, 0], abs=1e-3)
    canvas = np.zeros((2, 2000, 2000), np.uint8)
    for image, box in zip(canvas, (first, second), strict=True):
        cv2.fillPoly(image, [np.rint((corners_of(box)[0] + 50) * 10).astype(np.int32)], 1)
    both = canvas.astype(bool)
    assert iou[0, 0] == pytest.approx((both[0] & both[1]).sum() / (both[0] | both[1]).sum(), abs=0.05)


@given(boxes)
def test_a_box_overlaps_itself_by_1_at_most(box: NDArray[np.float32]) -> None:
    assert 1 - 1e-5 <= overlap(box, box)[0, 0] <= 1


def test_overlap_of_upright_boxes_is_the_usual_one() -> None:
    first, second = (
        np.array([[5, 5, 10, 10, 0.0]]),
        np.array([[10, 5, 10, 10, 0.0], [50, 5, 10, 10, 0], [5, 5, 10, 10, 0]]),
    )
    assert overlap(first, second)[0].tolist() == pytest.approx([1 / 3, 0, 1])


@given(boxes, boxes)
def test_gaussian_overlap_is_that_of_the_paper(first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    """From the covariance matrices of the Bhattacharyya distance."""
    wide, other = (box.astype(np.float64) for box in (first, second))
    covariances = []
    for _, _, width, height, angle in (wide[0].tolist(), other[0].tolist()):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        covariances.append(turn @ np.diag([width**2 / 12, height**2 / 12]) @ turn.T)
    middle, apart = sum(covariances) / 2, wide[0, :2] - other[0, :2]
    distance = apart @ np.linalg.inv(middle) @ apart / 8
    distance += 0.5 * np.log(np.linalg.det(middle) / np.sqrt(np.prod([np.linalg.det(each) for each in covariances])))
    expected = 1 - max(0.0, float(1 - np.exp(-distance))) ** 0.5
    assert gaussian_overlap(wide, other)[0, 0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("agnostic", [False, True])
def test_better_boxes_of_the_class_suppress(agnostic: bool) -> None:
    rows = np.array(
        [[20, 20, 30, 10, 0.1], [21, 20, 30, 10, 0.12], [20, 20, 30, 10, 1.5], [20, 20, 30, 10, 0.1]], np.float32
    )
    confidence, class_id = np.array([0.6, 0.9, 0.7, 0.5], np.float32), np.array([0, 0, 0, 1])
    kept = suppress(rows, confidence, class_id, 0.5, 300, agnostic)
    assert kept.tolist() == ([1, 2] if agnostic else [1, 2, 3])
    assert suppress(rows, confidence, class_id, 0.5, 1, agnostic).tolist() == [1]
    assert not len(suppress(rows[:0], confidence[:0], class_id[:0], 0.5, 300))


def test_blocks_do_not_change_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.uniform(0, 60, (200, 2)), rng.uniform(5, 30, (200, 2)), rng.uniform(-1, 3, 200)])
    confidence, class_id = rng.choice([0.5, 0.75, 0.9], 200).astype(np.float32), rng.integers(0, 3, 200)
    whole = suppress(rows.astype(np.float32), confidence, class_id, 0.3, 300)
    monkeypatch.setattr("edgesparse.runtime.rotated.BLOCK", 7)
    assert suppress(rows.astype(np.float32), confidence, class_id, 0.3, 300).tolist() == whole.tolist()
    assert 0 < len(whole) < 200
