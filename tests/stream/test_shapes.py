"""Masks, keypoints and rotated boxes in JSON lines, COCO results, YOLO label files and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sink_data import NAMES, gray_frame

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.masks import Mask
from edgesparse.stream.sinks.coco_json import CocoJson
from edgesparse.stream.sinks.draw import PALETTE, draw
from edgesparse.stream.sinks.json_lines import detection_records
from edgesparse.stream.sinks.yolo_txt import YoloTxt

HEIGHT, WIDTH = 80, 100
PIXELS = np.zeros((HEIGHT, WIDTH), np.bool_)
PIXELS[20:50, 30:60] = True
POINTS = np.array([[[40, 30, 0.9], [50, 45, 0.75]]], np.float32)
ROTATED = np.array([[50, 40, 40, 20, 0.6]], np.float32)


def mask_of(pixels: NDArray[np.bool_]) -> Mask:
    """Run lengths, column by column, beginning with pixels outside."""
    flat = pixels.T.ravel()
    ends = [*(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    return Mask(pixels.shape[0], pixels.shape[1], np.diff([0, *ends]).astype(np.uint32))


def detection(**shape: Any) -> Detections:
    box = np.array([[30, 20, 60, 50]], np.float32)
    return Detections(box, np.array([0.875], np.float32), np.array([1], np.int64), **shape)


MASK, POSE, TURNED = detection(masks=(mask_of(PIXELS),)), detection(keypoints=POINTS), detection(rotated=ROTATED)


def result(folder: Path, detections: Detections) -> dict[str, Any]:
    with CocoJson(folder / "out.json", NAMES) as sink:
        sink.write(gray_frame(0, "7.jpg"), detections)
    (row,) = json.loads((folder / "out.json").read_text())
    assert row["bbox"] == [30, 20, 30, 30] and row["score"] == 0.875
    return dict(row)


def columns(folder: Path, detections: Detections) -> list[float]:
    with YoloTxt(folder) as sink:
        sink.write(gray_frame(0, "7.jpg"), detections)
    label, *values, confidence = (folder / "7.txt").read_text().split()
    assert (label, confidence) == ("1", "0.8750")
    return list(map(float, values))


def test_lines_have_outlines_keypoints_and_rotated_boxes() -> None:
    (row,) = detection_records(MASK, NAMES)
    assert {tuple(point) for point in row["polygons"][0]} == {(30, 20), (30, 49), (59, 49), (59, 20)}  # type: ignore[index]
    (row,) = detection_records(POSE, NAMES)
    assert row["keypoints"] == [[40, 30, 0.9], [50, 45, 0.75]]
    (row,) = detection_records(TURNED, NAMES)
    assert row["rotated_box"] == [50, 40, 40, 20, 0.6] and row["box"] == [30, 20, 60, 50]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_results_are_read_by_pycocotools(tmp_path: Path) -> None:
    from pycocotools import mask as tools

    assert (tools.decode(result(tmp_path, MASK)["segmentation"]).astype(bool) == PIXELS).all()


def test_coco_results_have_keypoints_and_rotated_boxes(tmp_path: Path) -> None:
    (tmp_path / "pose").mkdir()
    assert result(tmp_path / "pose", POSE)["keypoints"] == [40, 30, 0.9, 50, 45, 0.75]
    row = result(tmp_path, TURNED)
    assert TURNED.corners is not None
    np.testing.assert_allclose(row["segmentation"][0], TURNED.corners[0].ravel(), atol=0.01)
    np.testing.assert_allclose(row["rotated_box"], ROTATED[0], atol=1e-4)


def test_label_files_have_the_columns_of_each_task(tmp_path: Path) -> None:
    share = np.array([WIDTH, HEIGHT])
    outline = np.reshape(columns(tmp_path / "mask", MASK), (-1, 2)) * share
    assert {tuple(point) for point in np.round(outline, 2).tolist()} == {
        (30.5, 20.5),
        (30.5, 49.5),
        (59.5, 49.5),
        (59.5, 20.5),
    }
    pose = columns(tmp_path / "pose", POSE)
    assert pose == pytest.approx([0.45, 0.4375, 0.3, 0.375, 0.4, 0.375, 0.9, 0.5, 0.5625, 0.75], abs=1e-5)
    corners = np.reshape(columns(tmp_path / "turned", TURNED), (4, 2)) * share
    assert TURNED.corners is not None
    np.testing.assert_allclose(corners, TURNED.corners[0], atol=1e-3)


def drawn(detections: Detections) -> NDArray[np.int64]:
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    draw(image, detections, NAMES)
    return image.astype(np.int64)


def test_a_mask_is_blended_into_the_image() -> None:
    image = drawn(MASK)
    assert np.abs(image[40, 45] - (0.45 * np.array(PALETTE[1]) + 0.55 * 128)).max() <= 2
    assert (image[40, 75] == 128).all()


def test_keypoints_are_drawn_where_they_are_unless_they_are_unlikely() -> None:
    image = drawn(POSE)
    assert np.abs(image[30, 40] - PALETTE[1]).max() < 10 and np.abs(image[45, 50] - PALETTE[1]).max() < 10
    unlikely = POINTS * np.array([1, 1, 0.3], np.float32)
    assert (drawn(detection(keypoints=unlikely))[30, 40] == 128).all()


def test_a_rotated_box_is_drawn_in_place_of_the_upright_one() -> None:
    image, corners = drawn(TURNED), TURNED.corners
    assert corners is not None
    for first, second in zip(corners[0], np.roll(corners[0], 1, axis=0), strict=True):
        x, y = np.rint((first + second) / 2).astype(int)
        assert np.abs(image[y - 1 : y + 2, x - 1 : x + 2] - PALETTE[1]).max(axis=2).min() < 60
    assert (image[45, 29:32] == 128).all()  # the left edge of the upright box
