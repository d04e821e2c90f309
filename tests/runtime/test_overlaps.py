"""How much objects overlap by what a detector reports of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.runtime import masks, overlaps
from edgesparse.runtime.agree import agreement
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.masks import Mask, mask_of_edges
from edgesparse.runtime.stored_shapes import stored_shapes, with_shapes

BITS = st.lists(st.booleans(), min_size=24, max_size=24).map(lambda bits: np.array(bits).reshape(4, 6))


def mask(bits: Any) -> Mask:
    column = np.concatenate([[0], np.asarray(bits, int).T.ravel(), [0]])
    return mask_of_edges(np.flatnonzero(np.diff(column)), *np.shape(bits))


@given(BITS, BITS)
def test_masks_overlap_like_their_pixels(first: Any, second: Any) -> None:
    either = (first | second).sum()
    assert masks.overlap(mask(first), mask(second)) == ((first & second).sum() / either if either else 1)


def poses(count: int, seed: int, points: int = 17) -> Detections:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 100, (count, 2))
    xyxy = np.concatenate([corners, corners + np.array([250, 300])], 1).astype(np.float32)
    keypoints = np.concatenate([random.uniform(0, 300, (count, points, 2)), np.ones((count, points, 1))], 2)
    none = np.zeros(count, np.int64)
    return Detections(xyxy, np.full(count, 0.9, np.float32), none, keypoints=keypoints.astype(np.float32))


def test_keypoints_are_compared_as_pycocotools_does() -> None:
    """Its object keypoint similarity, of labels whose area is the share of the box that a person fills."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    left = poses(3, seed=1)
    moved = left.keypoints + np.random.default_rng(2).normal(0, 9, (3, 17, 3)) * [1, 1, 0]  # type: ignore[operator]
    right = replace(left, keypoints=moved.astype(np.float32))
    assert left.keypoints is not None and right.keypoints is not None
    areas = (left.xyxy[:, 2:] - left.xyxy[:, :2]).prod(1) * overlaps.FILLED
    true = [
        {"keypoints": [*np.column_stack([k[:, :2], np.full(17, 2)]).ravel().tolist()], "num_keypoints": 17}
        | {"area": float(area), "bbox": [0, 0, 1, 1], "image_id": 1, "category_id": 1, "id": i, "iscrowd": 0}
        for i, (k, area) in enumerate(zip(left.keypoints, areas, strict=True), 1)
    ]
    labeled = coco.COCO()
    labeled.dataset = {"images": [{"id": 1}], "annotations": true, "categories": [{"id": 1}]}
    labeled.createIndex()
    both = {"image_id": 1, "category_id": 1}
    seen = [both | {"score": 0.9 - i / 10, "keypoints": k.ravel().tolist()} for i, k in enumerate(right.keypoints)]
    run = evaluation.COCOeval(labeled, labeled.loadRes(seen), "keypoints")
    run._prepare()
    np.testing.assert_allclose(overlaps.shapes_overlap(left, right), run.computeOks(1, 1).T, rtol=1e-5)


def test_points_that_nobody_is_confident_of_do_not_count() -> None:
    left, right = poses(1, seed=1), poses(1, seed=1)
    assert left.keypoints is not None and right.keypoints is not None
    right.keypoints[0, 3, :2] += 500
    assert overlaps.shapes_overlap(left, right)[0, 0] == pytest.approx(16 / 17)
    left.keypoints[0, 3, 2] = right.keypoints[0, 3, 2] = 0.4
    assert overlaps.shapes_overlap(left, right)[0, 0] == 1
    left.keypoints[0, :, 2] = right.keypoints[0, :, 2] = 0.1  # of none: then all do
    assert overlaps.shapes_overlap(left, right)[0, 0] == pytest.approx(16 / 17)


def test_poses_of_other_numbers_of_keypoints_never_agree() -> None:
    assert not overlaps.shapes_overlap(poses(2, seed=1), poses(2, seed=1, points=5)).any()


BOX = Detections(np.array([[0, 0, 6, 4]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
LEFT, RIGHT = (mask(np.broadcast_to(np.arange(6) // 3 == side, (4, 6))) for side in (0, 1))
TILTED = np.array([[100, 100, 80, 10, 0.3]], np.float32)
WRONG = {
    "masks": (replace(BOX, masks=(LEFT,)), replace(BOX, masks=(RIGHT,))),
    "keypoints": (poses(1, seed=1), replace(poses(1, seed=1), keypoints=poses(1, seed=2).keypoints)),
    "angles": (replace(BOX, rotated=TILTED), replace(BOX, rotated=TILTED + np.array([0, 0, 0, 0, 0.9], np.float32))),
}


@pytest.mark.parametrize("shape", WRONG)
def test_right_boxes_do_not_hide_wrong_shapes(shape: str) -> None:
    right, wrong = WRONG[shape]
    assert agreement([(right, right)]).recall == 1
    result = agreement([(right, wrong)])
    assert (result.recall, result.precision, result.extra) == (0, 0, 1)
    plain = Detections(wrong.xyxy, wrong.confidence, wrong.class_id)
    assert agreement([(right, plain)]).recall == 1  # boxes are all that both have


@pytest.mark.parametrize("shape", WRONG)
def test_stored_shapes_come_back(shape: str) -> None:
    right, _ = WRONG[shape]
    plain = Detections(right.xyxy, right.confidence, right.class_id)
    back = with_shapes(plain, stored_shapes(right))
    assert agreement([(right, back)]).iou == pytest.approx(1, abs=1e-5)
    assert stored_shapes(back) == stored_shapes(right) and len(stored_shapes(right)) == 1
    assert len(with_shapes(plain[:0], stored_shapes(right[:0]))) == 0
    assert stored_shapes(plain) == {}
