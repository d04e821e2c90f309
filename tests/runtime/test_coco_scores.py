"""Masks, keypoints, rotated boxes and classes scored on labels: exact ones score fully, shifted ones score less."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgesparse.errors import ConfigError
from edgesparse.runtime.coco_scores import require_shapes, rotated_label, shapes_of
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.evaluate import Answers, Evaluation, score
from edgesparse.runtime.heads.base import Task
from edgesparse.runtime.labels.read import Labels, annotation_file
from edgesparse.runtime.masks import Mask
from edgesparse.runtime.rotated import canonical, corners_of

SIZE = (160, 120)
CENTERS = np.array([[40, 50], [100, 60]], np.float32)
ROTATED = canonical(np.column_stack([CENTERS, [[40, 16], [50, 30]], [0.4, 1.2]]).astype(np.float32))
POINTS = CENTERS[:, None] + np.array([[-8, -8], [8, -8], [0, 0], [-8, 8], [8, 8]], np.float32)


def mask(polygon: np.ndarray) -> Mask:
    bits = np.zeros(SIZE[::-1], np.uint8)
    cv2.fillPoly(bits, [np.rint(polygon).astype(np.int32)], 1)
    flat = bits.T.reshape(-1).astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    return Mask(SIZE[1], SIZE[0], np.diff(np.concatenate([[0], edges, [flat.size]])).astype(np.uint32))


def detections(task: Task, shift: float = 0.0) -> Detections:
    """Exact detections; with `shift`, shapes are shifted inside boxes that stay exact."""
    corners = corners_of(ROTATED)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    plain = Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 1]))
    if task == "segment":
        return replace(plain, masks=tuple(mask(polygon + shift) for polygon in corners))
    if task == "pose":
        points = np.concatenate([POINTS + shift, np.ones((2, 5, 1))], 2)
        return replace(plain, keypoints=points.astype(np.float32))
    turned = ROTATED + np.array([0, 0, 0, 0, shift / 10], np.float32)
    return replace(plain, rotated=turned) if task == "obb" else plain


def coco(folder: Path) -> Path:
    """Labels for one image with every kind of shape, as COCO JSON."""
    cv2.imwrite(str(folder / "a.png"), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    annotations = []
    for number, (corners, points) in enumerate(zip(corners_of(ROTATED), POINTS, strict=True), 1):
        low, sides = corners.min(0), np.ptp(corners, axis=0)
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": number,
                "bbox": [*low.tolist(), *sides.tolist()],
                "segmentation": [corners.reshape(-1).tolist()],
                "keypoints": np.concatenate([points, np.full((5, 1), 2)], 1).reshape(-1).tolist(),
            }
        )
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1]}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def yolo(folder: Path, task: Task) -> Path:
    """The same labels as a YOLO data set of the task."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    lines = []
    for label, (corners, points) in enumerate(zip(corners_of(ROTATED) / SIZE, POINTS / SIZE, strict=True)):
        low, high = corners.min(0), corners.max(0)
        values = corners if task != "pose" else np.concatenate([(low + high) / 2, high - low, points.reshape(-1)])
        lines.append(f"{label} {' '.join(f'{value:.6f}' for value in values.reshape(-1))}\n")
    (folder / "labels" / "a.txt").write_text("".join(lines))
    shape = "kpt_shape: [5, 2]\n" if task == "pose" else ""
    (folder / "data.yaml").write_text(f"val: images\nnames: [a, b]\n{shape}")
    return folder / "data.yaml"


def scored(labels: Labels, task: Task, answer: Detections) -> Evaluation:
    labels.require(task)
    rows: list[list[float]] = []
    for (x1, y1, x2, y2), confidence, label in zip(answer.xyxy, answer.confidence, answer.class_id, strict=True):
        rows.append([1, *map(float, (x1, y1, x2 - x1, y2 - y1, confidence)), int(label)])
    answers = Answers(task, rows, shapes_of(answer), {1: SIZE})
    return score(labels, answers, ("a", "b"), labels.match(("a", "b")))


@pytest.mark.parametrize("kind", ["coco", "yolo"])
@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_each_task_is_scored_by_its_own_overlap(tmp_path: Path, task: Task, kind: str) -> None:
    labels = Labels(coco(tmp_path) if kind == "coco" else yolo(tmp_path, task))
    right, off = (scored(labels, task, detections(task, shift)) for shift in (0.0, 5.0))
    assert right.map > 80 and right.map50 == pytest.approx(100) and right.images == 1
    assert off.map < right.map - 10 and [each.boxes for each in off.classes] == [1, 1]
    assert scored(labels, "detect", detections(task, 5.0)).map > 89, "its boxes alone are right"
    assert right.metric == {"segment": "mask mAP", "pose": "keypoint mAP", "obb": "rotated mAP"}[task]


def test_labels_with_boxes_only_are_refused_where_more_is_needed(tmp_path: Path) -> None:
    file = coco(tmp_path)
    content: dict[str, Any] = json.loads(file.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"], annotation["keypoints"]
    file.write_text(json.dumps(content))
    labels = Labels(file)
    for task, words in (("segment", "masks"), ("pose", "keypoints"), ("obb", "rotated boxes")):
        with pytest.raises(ConfigError, match=f"2 of 2 labels have a box only: needed {words}"):
            labels.require(task)  # type: ignore[arg-type]
    labels.require("detect")
    require_shapes({"annotations": []}, "segment", "x")


def test_run_lengths_count_as_masks(tmp_path: Path) -> None:
    file = coco(tmp_path)
    content: dict[str, Any] = json.loads(file.read_text())
    for annotation, polygon in zip(content["annotations"], corners_of(ROTATED), strict=True):
        annotation["segmentation"] = mask(polygon).as_coco()
    file.write_text(json.dumps(content))
    assert scored(Labels(file), "segment", detections("segment")).map == pytest.approx(100)


def test_a_labeled_polygon_becomes_the_rotated_box_around_it() -> None:
    for box, corners in zip(ROTATED, corners_of(ROTATED), strict=True):
        np.testing.assert_allclose(
            canonical(rotated_label([corners.reshape(-1).tolist()]).astype(np.float32))[0], box, atol=0.01
        )


def test_a_classifier_is_scored_on_folders_of_its_classes(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    labels = Labels(annotation_file(tmp_path))
    labels.require("classify")
    rows = [
        [image, 0, 0, 8, 8, confidence, label] for image in (1, 2, 3, 4) for label, confidence in ((0, 0.6), (1, 0.4))
    ]
    result = score(labels, Answers("classify", rows, [], {}), ("a", "b"), labels.match(("a", "b")))
    assert (result.map, result.map50, result.metric, result.images) == (75, 100, "top-1", 4)
    assert [(each.name, each.map, each.boxes) for each in result.classes] == [("a", 100, 3), ("b", 0, 1)]


def test_a_classifier_needs_one_label_per_image(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="several labels per image, needed one"):
        Labels(coco(tmp_path)).require("classify")
