"""COCO scores of a detector that finds everything, half, or nothing; and invalid labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import squares

from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.onnxruntime import OnnxRuntimeRunner
from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import ConfigError, ModelError
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Evaluation, evaluate, file_detector
from edgesparse.runtime.labels.read import Labels


def score(folder: Path, labels: Labels, names: tuple[str, ...] = squares.NAMES, **model: Any) -> Evaluation:
    path = squares.detector(folder / "model.onnx", **model)
    spec = DetectorSpec(head="yolov8", classes=names, input=InputSpec(size=(64, 64)))
    with Detector(backend("onnxruntime").load(path, 1), spec, SCORING) as detector:
        return evaluate(detector, labels)


def test_a_detector_that_finds_every_box_has_100_points(tmp_path: Path) -> None:
    evaluation = score(tmp_path, Labels(squares.coco_annotations(tmp_path)))
    assert (evaluation.map, evaluation.map50, evaluation.map75, evaluation.images) == pytest.approx((100, 100, 100, 4))
    assert [(c.name, c.boxes > 0, round(c.map)) for c in evaluation.classes] == [
        ("red", True, 100),
        ("green", True, 100),
    ]
    assert evaluation.small == pytest.approx(100) and evaluation.large == -1


def test_boxes_beside_the_mark_cost_points_at_the_higher_overlaps(tmp_path: Path) -> None:
    """Shifted by one of eight pixels in both directions: 49 of 79 pixels overlap, an IoU of 0.62."""
    evaluation = score(tmp_path, Labels(squares.coco_annotations(tmp_path)), shift=1.0)
    assert evaluation.map50 == pytest.approx(100) and evaluation.map75 == 0
    assert evaluation.map == pytest.approx(30, abs=1)  # 3 of 10 thresholds (0.50, 0.55, 0.60); more at the frame's edge


def test_no_detections_score_zero(tmp_path: Path) -> None:
    evaluation = score(tmp_path, Labels(squares.coco_annotations(tmp_path)), shift=1000.0)
    assert (evaluation.map, evaluation.map50, evaluation.images) == (
        0,
        0,
        4,
    ) and "finds nothing on 4 images" in evaluation.note


def test_batches_and_the_rest_of_the_last_one_count_once(tmp_path: Path) -> None:
    assert score(tmp_path, Labels(squares.coco_annotations(tmp_path, 5)), batch=3).map == pytest.approx(100)


def test_progress_counts_the_images(tmp_path: Path) -> None:
    labels = Labels(squares.coco_annotations(tmp_path, 3))
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    seen: list[tuple[int, int]] = []
    runner = backend("onnxruntime").load(squares.detector(tmp_path / "model.onnx"), 1)
    with Detector(runner, spec, SCORING) as detector:
        evaluate(detector, labels, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_box_of_id_zero_counts_like_the_others(tmp_path: Path) -> None:
    path = squares.coco_annotations(tmp_path)
    labels = json.loads(path.read_text())
    for box in labels["annotations"]:
        box["id"] -= 1
    path.write_text(json.dumps(labels))
    assert score(tmp_path, Labels(path)).map == pytest.approx(100)


def test_a_detector_that_does_not_fit_leaves_no_runner_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = list[OnnxRuntimeRunner]()
    monkeypatch.setattr(OnnxRuntimeRunner, "close", lambda runner: closed.append(runner))
    spec = DetectorSpec(head="yolov8", classes=("a", "b", "c"), input=InputSpec(size=(64, 64)))
    with pytest.raises(ModelError, match="has 2 classes"):
        file_detector(squares.detector(tmp_path / "model.onnx"), spec, SCORING)
    assert len(closed) == 1


def test_a_damaged_image_is_one_line(tmp_path: Path) -> None:
    labels = Labels(squares.coco_annotations(tmp_path))
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"cannot read the image .*2.png"):
        score(tmp_path, labels)


def test_yolox_nano_has_its_known_score_on_real_images(real: Path, tmp_path: Path) -> None:
    """Compared with pycocotools on the model run with its own recipe: 29.5 mAP, 46.3 mAP50."""
    result = backend("onnxruntime").build(real / "models/yolox_nano.onnx", tmp_path / "model.onnx", BuildOptions())
    look = InputSpec(size=(416, 416), letterbox="top-left", colour="bgr", scale=1.0)
    spec = DetectorSpec(head="yolox", classes=coco_names(), input=look)
    with Detector(backend("onnxruntime").load(result.path), spec, SCORING) as detector:
        evaluation = evaluate(detector, Labels(real / "coco_mini/instances_val.json"))
    assert evaluation.map == pytest.approx(29.5, abs=0.1)
    assert evaluation.map50 == pytest.approx(46.3, abs=0.2)
    assert evaluation.images == 153
