"""Masks: run lengths against COCO's own, bitmaps and outlines, and masks from prototypes."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.letterbox import Letterbox
from edgesparse.runtime.masks import Bitmaps, Mask, union
from edgesparse.runtime.prototypes import MaskMaker

bitmaps = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(np.bool_, shape))


def mask_of(pixels: NDArray[np.bool_]) -> Mask:
    """With prototypes at the frame's own resolution, where interpolation changes nothing."""
    height, width = pixels.shape
    maker = MaskMaker((1, height, width), (height, width))
    whole = np.array([[0, 0, width, height]], np.float32)
    candidates = np.concatenate([whole, np.ones((1, 1), np.float32)], 1)
    logits = np.where(pixels, 1.0, -1.0).astype(np.float32)[None]
    detections = Detections(whole, np.ones(1, np.float32), np.zeros(1, np.int64))
    masked = maker(detections, candidates, logits, Letterbox.fit((height, width), (height, width), "stretch"))
    assert masked.masks is not None
    return masked.masks[0] if masked.masks else Mask(height, width, np.array([height * width], np.uint32))


@given(bitmaps)
@example(np.ones((3, 4), np.bool_))
@example(np.eye(5, dtype=np.bool_))
def test_run_lengths_are_those_of_coco(pixels: NDArray[np.bool_]) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    mask = mask_of(pixels)
    theirs = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    if pixels.any():
        assert mask.as_coco() == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    assert mask.area == pixels.sum()
    np.testing.assert_array_equal(mask.bitmap(), pixels)


@given(bitmaps, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
@example(np.ones((3, 4), np.bool_), 0, 1, 0, 0)  # columns that touch
def test_a_tiles_mask_is_placed_in_its_frame(
    pixels: NDArray[np.bool_], top: int, left: int, below: int, right: int
) -> None:
    whole = np.pad(pixels, ((top, below), (left, right)))
    placed = mask_of(pixels).placed(top, left, *whole.shape)
    np.testing.assert_array_equal(placed.bitmap(), whole)
    assert placed.counts.tolist() == mask_of(whole).counts.tolist()


@given(st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(lambda shape: arrays(np.bool_, (3, *shape))))
def test_the_union_of_masks_has_each_of_their_pixels(pixels: NDArray[np.bool_]) -> None:
    together = union([mask_of(each) for each in pixels])
    np.testing.assert_array_equal(together.bitmap(), pixels.any(axis=0))
    assert together.counts.tolist() == mask_of(np.asarray(pixels.any(axis=0))).counts.tolist()


def test_long_runs_are_written_as_coco_writes_them() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    pixels = np.zeros((480, 640), np.bool_)
    cv2.circle(pixels.view(np.uint8), (300, 200), 150, 1, cv2.FILLED)
    cv2.rectangle(pixels.view(np.uint8), (600, 0), (639, 479), 1, cv2.FILLED)
    theirs = coco.encode(np.asfortranarray(pixels.view(np.uint8)))
    assert mask_of(pixels).as_coco()["counts"] == theirs["counts"].decode()


def test_outlines_are_in_the_frames_pixels_the_largest_first() -> None:
    pixels = np.zeros((20, 30), np.bool_)
    pixels[2:5, 3:6] = pixels[8:18, 10:29] = True
    first, second = mask_of(pixels).polygons()
    assert sorted(map(tuple, first.tolist())) == [(10, 8), (10, 17), (28, 8), (28, 17)]
    assert sorted(map(tuple, second.tolist())) == [(3, 2), (3, 4), (5, 2), (5, 4)]
    assert Mask(4, 4, np.array([16], np.uint32)).polygons() == []


def test_bitmaps_are_reused_between_masks() -> None:
    reused = Bitmaps()
    large, small = np.ones((6, 7), np.bool_), np.zeros((6, 7), np.bool_)
    small[5, 6] = True
    assert reused.columns(mask_of(large))[1].sum() == 42
    left, columns = reused.columns(mask_of(small))
    assert (left, columns.tolist()) == (6, [[0, 0, 0, 0, 0, 1]])


@pytest.mark.parametrize("kind", ["centre", "top-left", "stretch"])
@pytest.mark.parametrize("frame", [(270, 480), (480, 270), (97, 101), (1080, 1920)])
def test_masks_are_interpolated_to_the_frame_and_cut_at_their_boxes(kind: str, frame: tuple[int, int]) -> None:
    """Against bilinear interpolation pixel by pixel, for smooth prototypes like those of trained networks."""
    size, rng = (64, 96), np.random.default_rng(0)
    prototypes = np.stack([cv2.GaussianBlur(rng.normal(size=(16, 24)), (0, 0), 2) for _ in range(4)]).astype(np.float32)
    box = Letterbox.fit(frame, size, kind)  # type: ignore[arg-type]
    inputs = np.array([[20, 10, 80, 50], [30.3, 20.7, 60.2, 41.9], [-9, -9, 200, 200]], np.float32)
    candidates = np.concatenate([inputs, rng.normal(size=(3, 4)).astype(np.float32)], 1)
    detections = Detections(box.to_frame(inputs), np.ones(3, np.float32), np.arange(3))
    result = MaskMaker(prototypes.shape, size)(detections, candidates, prototypes, box)
    assert result.masks is not None and len(result.masks) > 1
    for mask, row in zip(result.masks, result.class_id, strict=True):
        expected = reference(np.tensordot(candidates[row, 4:], prototypes, 1), detections.xyxy[row], box, size)
        both = (mask.bitmap() | expected).sum()
        assert (mask.bitmap() & expected).sum() >= 0.99 * both > 0


def reference(
    logits: NDArray[np.float32], xyxy: NDArray[np.float32], at: Letterbox, size: tuple[int, int]
) -> NDArray[np.bool_]:
    rows, columns = logits.shape
    y = (((np.arange(at.frame_height) + 0.5) * at.height / at.frame_height + at.top) * rows / size[0] - 0.5).clip(0)
    x = (((np.arange(at.frame_width) + 0.5) * at.width / at.frame_width + at.left) * columns / size[1] - 0.5).clip(0)
    y, x = y.clip(0, rows - 1), x.clip(0, columns - 1)
    top, left = np.minimum(y.astype(int), rows - 2), np.minimum(x.astype(int), columns - 2)
    down, across = (y - top)[:, None], x - left
    upper, lower = (
        logits[np.ix_(row, left)] * (1 - across) + logits[np.ix_(row, left + 1)] * across for row in (top, top + 1)
    )
    inside = np.zeros((at.frame_height, at.frame_width), np.bool_)
    x1, y1, x2, y2 = np.ceil(xyxy).astype(int)
    inside[y1:y2, x1:x2] = (upper * (1 - down) + lower * down > 0)[y1:y2, x1:x2]
    return inside


def test_a_mask_without_a_pixel_leaves_its_detection_out() -> None:
    maker, box = MaskMaker((1, 4, 4), (16, 16)), Letterbox.fit((16, 16), (16, 16), "centre")
    candidates = np.array([[0, 0, 16, 16, 1], [0, 0, 16, 16, -1], [3, 3, 3, 9, 1]], np.float32)
    detections = Detections(candidates[:, :4], np.ones(3, np.float32), np.arange(3))
    result = maker(detections, candidates, np.ones((1, 4, 4), np.float16), box)
    assert result.class_id.tolist() == [0] and result.masks is not None and result.masks[0].area == 256
    assert maker(detections[:0], candidates[:0], None, box).masks == ()


def test_masks_allocate_nothing_of_a_frames_size_after_the_first() -> None:
    """Here a frame is 2.8 MB, and its values as float 3.7 MB."""
    maker, box = MaskMaker((8, 160, 160), (640, 640)), Letterbox.fit((720, 1280), (640, 640), "centre")
    candidates = np.tile(np.array([[0, 0, 640, 640] + [1] * 8], np.float32), (20, 1))
    detections = Detections(box.to_frame(candidates[:, :4]), np.ones(20, np.float32), np.zeros(20, np.int64))
    prototypes = np.ones((8, 160, 160), np.float32)
    maker(detections, candidates, prototypes, box)
    tracemalloc.start()
    maker(detections, candidates, prototypes, box)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000
