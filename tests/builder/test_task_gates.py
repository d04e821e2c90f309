"""A build's gate scores masks, keypoints, rotated boxes and classes by their own metric: right boxes do not suffice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares

from edgesparse.builder.build import build
from edgesparse.config import parse
from edgesparse.errors import AccuracyGateFailed
from edgesparse.package.manifest import Score

pytestmark = pytest.mark.usefixtures("quick")
BOX, ANCHORS = (8.0, 16.0, 40.0, 48.0), 84
CENTER = (BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2
POINTS = [[12, 20], [36, 20], [24, 32], [12, 44], [36, 44]]
METRICS = {"yolov8-seg": "mask mAP", "yolov8-pose": "keypoint mAP", "yolov8-obb": "rotated mAP", "classifier": "top-1"}


def network(head: str, path: Path) -> Path:
    """A detector that sees the same object in every image: class `a` in BOX, which its shape fills."""
    if head == "classifier":
        return squares.constant(path, {"output0": np.array([[0.9, 0.1]], np.float32)})
    poses = [float(value) for x, y in POINTS for value in (x, y, 1)]
    rest = {"yolov8-seg": [1.0] + [0.0] * 31, "yolov8-pose": poses}.get(head, [0.0])
    raw = np.zeros((1, 6 + len(rest), ANCHORS), np.float32)
    raw[0, :, 7] = [*CENTER, BOX[2] - BOX[0], BOX[3] - BOX[1], 0.9, 0, *rest]
    outputs = {"output0": raw}
    if head == "yolov8-seg":
        outputs["output1"] = np.ones((1, 32, 16, 16), np.float32)
    return squares.constant(path, outputs)


def labels(head: str, folder: Path, right: bool) -> Path:
    """The label of one image; if not `right`, another shape in the same box. A classifier gets four images."""
    image = np.zeros((64, 64, 3), np.uint8)
    if head == "classifier":
        for name, count in (("a", 3 if right else 1), ("b", 1 if right else 3)):
            (folder / "images" / name).mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(folder / "images" / name / f"{number}.png"), image)
        return folder / "images"
    cv2.imwrite(str(folder / "1.png"), image)
    left, top, end, bottom = BOX
    polygon = [left, top, end, top, end, bottom, left, bottom]
    if not right:
        x, y = CENTER
        polygon = [x, top, end, y, x, bottom, left, y]  # its corners are in the middle of the box's sides
    points = [[x + (0 if right else 12), y, 2] for x, y in POINTS]
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [polygon],
        "bbox": [left, top, end - left, bottom - top],
        "keypoints": [v for point in points for v in point],
    }
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def built(head: str, folder: Path, right: bool) -> Score | None:
    keypoints: dict[str, Any] = {"keypoints": [5, 3]} if head == "yolov8-pose" else {}
    fields = {
        "model": str(network(head, folder / "model.onnx")),
        "head": head,
        "classes": ["a", "b"],
        **keypoints,
        "input": {"size": 64},
        "build": {"backend": "onnxruntime"},
        "accept": {"annotations": str(labels(head, folder, right)), "min_map": 60},
    }
    package = build(parse(fields, "recipe"), folder / "engines").package
    return next(candidate.score for candidate in package.manifest.candidates if candidate.chosen)


@pytest.mark.parametrize("head", METRICS)
def test_a_build_is_accepted_by_the_tasks_own_score(tmp_path: Path, head: str) -> None:
    score = built(head, tmp_path, right=True)
    assert score is not None and score.metric == METRICS[head] and score.map >= 60


@pytest.mark.parametrize("head", METRICS)
def test_right_boxes_with_other_shapes_are_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(AccuracyGateFailed, match=rf"found .* {METRICS[head]}, needed accept.min_map 60 on . images"):
        built(head, tmp_path, right=False)
