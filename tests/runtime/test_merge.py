"""Masks, keypoints and rotated boxes of objects that several parts of a frame see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.masks import Mask, mask_of_edges
from edgesparse.runtime.merge import Limits, merged
from edgesparse.runtime.rotated import canonical, corners_of, overlap, overlap_in
from edgesparse.tiles import Part

LIMITS = Limits(0.7, 300, False)
WHOLE, LEFT, RIGHT = Part(0, 0, 64, 128), Part(0, 0, 64, 80), Part(0, 48, 64, 80)
PARTS = [WHOLE, LEFT, RIGHT]
NONE = Detections.none()


def single(xyxy: tuple[float, ...], confidence: float, label: int = 0) -> Detections:
    return Detections(
        np.array([xyxy], np.float32),
        np.array([confidence], np.float32),
        np.array([label], np.int64),
        classes=("a", "b"),
    )


def mask_of(pixels: NDArray[np.bool_]) -> Mask:
    flat = np.pad(pixels.T.ravel(), 1)
    return mask_of_edges(np.flatnonzero(flat[1:] != flat[:-1]), *pixels.shape)


def disc(center: tuple[int, int], radius: int, part: Part) -> NDArray[np.bool_]:
    y, x = np.mgrid[: WHOLE.height, : WHOLE.width]
    pixels = (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2
    return pixels[part.top : part.top + part.height, part.left : part.left + part.width]


def test_masks_of_pieces_are_united_and_placed_in_the_frame() -> None:
    seen = []
    for part, confidence in ((LEFT, 0.8), (RIGHT, 0.7)):
        pixels = disc((64, 32), 30, part)
        rows, columns = np.nonzero(pixels)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        seen.append(replace(single(box, confidence), masks=(mask_of(pixels),)))
    result = merged(PARTS, [replace(NONE, masks=()), *seen], LIMITS)
    assert len(result) == 1 and result.masks is not None
    np.testing.assert_array_equal(result.masks[0].bitmap(), disc((64, 32), 30, WHOLE))
    assert result.xyxy.tolist() == [[34, 2, 95, 63]]


def test_the_mask_of_a_tile_that_sees_all_of_the_object_is_kept() -> None:
    coarse = np.zeros((64, 128), np.bool_)
    coarse[20:41, 20:41] = True
    fine = disc((30, 30), 10, LEFT)
    seen = [
        replace(single((20, 20, 41, 41), 0.6), masks=(mask_of(coarse),)),
        replace(single((20, 20, 41, 41), 0.7), masks=(mask_of(fine),)),
        replace(NONE, masks=()),
    ]
    result = merged(PARTS, seen, LIMITS)
    assert len(result) == 1 and result.masks is not None
    np.testing.assert_array_equal(result.masks[0].bitmap(), disc((30, 30), 10, WHOLE))


def test_each_keypoint_is_from_the_piece_that_sees_it_best() -> None:
    left = np.array([[[40, 10, 0.9], [79, 10, 0.2]]], np.float32)
    right = np.array([[[0, 10, 0.3], [50, 12, 0.8]]], np.float32)
    seen = [
        replace(NONE, keypoints=np.empty((0, 2, 3), np.float32)),
        replace(single((36, 5, 80, 40), 0.8), keypoints=left),
        replace(single((0, 5, 56, 40), 0.9), keypoints=right),
    ]
    result = merged(PARTS, seen, LIMITS)
    assert result.xyxy.tolist() == [[36, 5, 104, 40]] and result.keypoints is not None
    np.testing.assert_allclose(result.keypoints, [[[40, 10, 0.9], [98, 12, 0.8]]], rtol=1e-6)


def rotated(box: tuple[float, ...], confidence: float) -> Detections:
    values = canonical(np.array([box], np.float32))
    corners = corners_of(values)[0]
    return replace(single((*corners.min(axis=0), *corners.max(axis=0)), confidence), rotated=values)


def test_of_rotated_boxes_the_one_that_is_seen_whole_is_kept() -> None:
    """Two ships side by side, whose upright boxes cover each other, are two objects."""
    first, second = (40, 30, 50, 8, 0.7), (52, 22, 50, 8, 0.7)
    parts = [WHOLE, LEFT]
    seen = [
        replace(_two(rotated(first, 0.6), rotated(second, 0.5))),
        _two(rotated(first, 0.9), rotated(second, 0.8)),
    ]
    result = merged(parts, seen, LIMITS)
    assert result.rotated is not None and len(result) == 2
    np.testing.assert_allclose(result.confidence, [0.9, 0.8], rtol=1e-6)
    expected = canonical(np.array([first, second], np.float32))
    np.testing.assert_allclose(result.rotated, expected, rtol=1e-4)


def _two(first: Detections, second: Detections) -> Detections:
    assert first.rotated is not None and second.rotated is not None
    return Detections(
        np.concatenate([first.xyxy, second.xyxy]),
        np.concatenate([first.confidence, second.confidence]),
        np.concatenate([first.class_id, second.class_id]),
        rotated=np.concatenate([first.rotated, second.rotated]),
    )


@settings(max_examples=50)
@given(*[st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(4, 60), st.integers(4, 60)) for _ in range(2)])
@example((10, 10, 20, 20), (10, 10, 20, 20))
def test_the_overlap_of_rotated_boxes_in_a_window(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    boxes = [np.array([x, y, w, h, 0.4]) for x, y, w, h in (first, second)]
    everywhere = overlap(boxes[0][None], boxes[1][None])[0, 0]
    assert overlap_in(boxes[0], boxes[1], (-500, -500, 500, 500)) == pytest.approx(everywhere, abs=1e-3)
    assert overlap_in(boxes[0], boxes[1], (400, 400, 500, 500)) == 0


@pytest.mark.parametrize(("agnostic", "count"), [(False, 2), (True, 1)])
def test_classes_are_apart_unless_the_recipe_is_agnostic(agnostic: bool, count: int) -> None:
    seen = [single((10, 10, 30, 30), 0.5), single((10, 10, 30, 30), 0.9, 1), NONE]
    assert len(merged(PARTS, seen, Limits(0.7, 300, agnostic))) == count


def test_the_most_confident_are_kept() -> None:
    seen = [single((10, 10, 30, 30), 0.5), NONE, single((50, 10, 70, 30), 0.9)]
    result = merged(PARTS, seen, Limits(0.7, 1, False))
    assert result.confidence.tolist() == pytest.approx([0.9]) and result.xyxy.tolist() == [[98, 10, 118, 30]]
    assert result.names == ("a",)
