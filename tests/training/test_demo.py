"""The demo's training: its parts, and the whole script on a few scenes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="torch: needs PyTorch")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from demo_training import data  # noqa: E402
from demo_training.batches import Album, Batch, moved, tinted  # noqa: E402
from demo_training.loss import assign, complete_iou, detection_loss, iou  # noqa: E402
from demo_training.main import main  # noqa: E402
from demo_training.net import BINS, Detector  # noqa: E402
from demo_training.score import Detected, Truth, evaluate  # noqa: E402
from demo_training.train import Phase, Plan  # noqa: E402

from edgesparse import config  # noqa: E402
from edgesparse.demo.scene import CLASSES, still  # noqa: E402
from edgesparse.runtime.preprocess import Preprocessor  # noqa: E402
from edgesparse.training.check import check_onnx  # noqa: E402

pytestmark = pytest.mark.torch


def random() -> Any:
    return torch.Generator().manual_seed(0)


def padded(*boxes: tuple[float, ...]) -> Any:
    rows = torch.zeros(1, data.MOST, 4)
    rows[0, : len(boxes)] = torch.tensor(boxes)
    return rows


@pytest.mark.long
def test_the_whole_script_on_a_few_scenes(tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "train_demo_model")
    command = [sys.executable, script, "--tiny", "--device", "cpu", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "2to4.pt",
        "dense.pt",
        "parts_2to4.onnx",
        "parts_dense.onnx",
        "train_demo.json",
    ]
    report = json.loads((tmp_path / "train_demo.json").read_text())
    assert {"parts_dense", "parts_2to4"} < set(report["scores"]) and report["seconds"]["all"] > 0
    sparse = check_onnx(tmp_path / "parts_2to4.onnx", require=True)
    assert sum(layer.state == "sparse" for layer in sparse.layers) == 27
    assert not any(layer.sparse for layer in check_onnx(tmp_path / "parts_dense.onnx").eligible)
    for name in ("parts_dense", "parts_2to4"):
        looks_like_yolov8(tmp_path / f"{name}.onnx")
    assert subprocess.run(command, check=False, env=environment, stderr=subprocess.DEVNULL).returncode == 2


def looks_like_yolov8(path: Path) -> None:
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["names"] == str(dict(enumerate(CLASSES)))
    assert (metadata["stride"], metadata["imgsz"], metadata["task"]) == ("32", "[320, 320]", "detect")
    assert path.stat().st_size <= 6_000_000
    layers, shapes = {"Conv", "Relu", "Sigmoid", "Softmax"}, {"Concat", "Resize", "Reshape", "Split", "Constant"}
    plain = layers | shapes | {"Mul", "Add", "Sub"}
    assert {node.op_type for node in model.graph.node} <= plain
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output = session.run(None, {"images": np.zeros((1, 3, 320, 320), np.float32)})[0]
    assert output.shape == (1, 9, 2100)
    assert output[:, 4:].min() >= 0 and output[:, 4:].max() <= 1


def test_the_seeds_of_the_test_scenes_are_never_trained_on(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--out", str(tmp_path), "--scenes", str(data.TEST - data.TRAIN + 1)])
    assert refused.value.code == 2


def test_scenes_reach_the_detector_as_in_the_runtime() -> None:
    stills = data.draw(data.TEST, 2)
    frame, labels = still(data.TEST + 1)
    buffer = np.empty((1, 3, data.SIZE, data.SIZE), np.float32)
    spec = config.InputSpec(size=(data.SIZE, data.SIZE), colour="rgb", letterbox="centre")
    letterbox = Preprocessor(spec, buffer)(frame)
    np.testing.assert_allclose(stills.images[1] / 255, buffer[0], atol=1 / 255)
    real = stills.classes[1] >= 0
    np.testing.assert_allclose(stills.boxes[1][real], letterbox.to_input(labels.xyxy), atol=1e-4)
    np.testing.assert_array_equal(stills.classes[1][real], labels.class_id)


def test_boxes_move_with_their_pixels() -> None:
    images = torch.full((64, 3, data.SIZE, data.SIZE), data.PAD / 255)
    images[:, :, 100:140, 60:160] = 1
    boxes = padded((60, 100, 160, 140)).expand(64, -1, -1)
    classes = torch.full((64, data.MOST), -1)
    classes[:, 0] = 3
    out = moved(Batch(images, boxes, classes), random(), 1.0)
    for image, box in zip(out.images, out.boxes[:, 0], strict=True):
        bright = (image[0] > 0.7).nonzero()
        captured = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1])
        assert (captured - box).abs().max() < 1.5
    assert len({tuple(box.tolist()) for box in out.boxes[:, 0]}) == 64


def test_a_box_that_is_moved_out_is_dropped() -> None:
    images = torch.zeros(64, 3, data.SIZE, data.SIZE)
    classes = torch.zeros(64, data.MOST, dtype=torch.int64)
    boxes = padded((0, 0, 10, 10)).expand(64, -1, -1)
    kept = moved(Batch(images, boxes, classes), random(), 1.0).classes[:, 0] >= 0
    assert kept.any() and not kept.all()


def test_tinting_stays_in_range_and_differs() -> None:
    images = torch.rand(2, 3, 8, 8, generator=random()).repeat_interleave(2, 0)
    out = tinted(images, random())
    assert out.min() >= 0 and out.max() <= 1 and not torch.allclose(out[0], out[1])


def test_a_phase_continues_from_where_it_was_saved(tmp_path: Path) -> None:
    result: Future[data.Stills] = Future()
    result.set_result(data.draw(0, 2))
    album = Album(data.Order(deque([result])), 2, torch.device("cpu"))
    album.fill(2)
    phase = Phase(Plan("dense", 60, 1e-3, 2, steps=2), Detector(5), seed=0)
    phase.run(album, lambda text: None)
    phase.save(tmp_path / "dense.pt")
    again = Phase(phase.plan, Detector(5), seed=0)
    again.load(tmp_path / "dense.pt")
    assert again.step == 2 and again.progress == 1 and again.seconds == phase.seconds
    for mine, other in ((again.detector, phase.detector), (again.average.detector, phase.average.detector)):
        torch.testing.assert_close(mine.state_dict(), other.state_dict())
    momentum = [run.optimizer.state_dict()["state"][0]["exp_avg"] for run in (phase, again)]
    torch.testing.assert_close(*momentum)


def test_overlaps() -> None:
    a, b = torch.tensor([0.0, 0, 10, 10]), torch.tensor([5.0, 0, 15, 10])
    assert iou(a, b).item() == pytest.approx(1 / 3)
    assert complete_iou(a, a).item() == pytest.approx(1)
    # the centers are 5 apart, the diagonal of both is sqrt(15^2 + 10^2), the shapes are equal
    assert complete_iou(a, b).item() == pytest.approx(1 / 3 - 25 / 325)


def test_each_box_gets_the_cells_that_predict_it_best() -> None:
    boxes, classes = padded((0, 0, 16, 16), (16, 0, 32, 16)), torch.full((1, data.MOST), -1)
    classes[0, 0], classes[0, 1] = 1, 0
    points = torch.cat([torch.tensor([[4.0, 4], [12, 12], [20, 4]]), torch.full((9, 2), 200.0)])
    predicted = boxes[:, [0, 1, 1]].repeat(1, 4, 1)  # the second cell predicts the other box
    index, weight = assign(torch.full((1, 12, 2), 0.5), predicted, boxes, classes, points)
    assert index[0, [0, 2]].tolist() == [0, 1]
    assert weight[0].tolist() == pytest.approx([1, 0, 1] + [0] * 9, abs=1e-6)


def test_the_loss_is_least_for_what_is_true() -> None:
    detector = Detector(5)
    boxes, classes = padded((40, 40, 104, 88)), torch.full((1, data.MOST), -1)
    classes[0, 0] = 2

    def loss_at(shift: float) -> list[float]:
        points, strides = detector.points[0].T, detector.strides[0, 0]
        near, far = points - boxes[0, 0, :2] - shift, boxes[0, 0, 2:] + shift - points
        sides = (torch.cat([near, far], 1).T / strides).clamp(0, BINS - 1)
        logits = -20 * (torch.arange(BINS)[:, None, None] - sides).abs()
        inside = torch.cat([near, far], 1).amin(1) > 0
        scores = torch.full((1, 5, 2100), -12.0)
        scores[0, 2, inside] = 12.0
        return detection_loss(detector, (logits[None], scores), boxes, classes).tolist()

    right, wrong = loss_at(0), loss_at(12)
    assert right[0] < 0.01
    assert right[0] < wrong[0] and right[2] < wrong[2]


def test_map_is_that_of_pycocotools() -> None:
    from pycocotools import coco, cocoeval

    rng = np.random.default_rng(0)
    truth, result = [], []
    for _ in range(30):
        low = rng.uniform(0, 200, (8, 2))
        boxes = np.concatenate([low, low + rng.uniform(30, 80, (8, 2))], 1).astype(np.float32)
        truth.append(Truth(boxes, rng.integers(0, 3, 8)))
        guess = np.concatenate([boxes + rng.normal(0, 3, (8, 4)), boxes + rng.uniform(-12, 12, (8, 4))]).astype(
            np.float32
        )
        labels = np.where(rng.random(16) < 0.9, np.tile(truth[-1].class_id, 2), 0)
        confidence = np.sort(rng.random(16).astype(np.float32))[::-1]
        result.append(Detected(guess, confidence, labels))
    score = evaluate(result, truth, 3)
    reference = coco.COCO()
    reference.dataset = coco_truth(truth)
    reference.createIndex()
    judge = cocoeval.COCOeval(reference, reference.loadRes(coco_found(result)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert score.map == pytest.approx(judge.stats[0] * 100, abs=0.05)
    assert score.map50 == pytest.approx(judge.stats[1] * 100, abs=0.05)


def coco_truth(truth: list[Truth]) -> dict[str, Any]:
    rows = [(image, c, box) for image, t in enumerate(truth) for c, box in zip(t.class_id, t.xyxy, strict=True)]
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": int(c), "bbox": xywh(box), "area": 1000.0, "iscrowd": 0}
        for i, (image, c, box) in enumerate(rows)
    ]
    images, categories = [{"id": i} for i in range(len(truth))], [{"id": i} for i in range(3)]
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def coco_found(result: list[Detected]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": int(c), "bbox": xywh(box), "score": float(s)}
        for image, f in enumerate(result)
        for box, s, c in zip(f.xyxy, f.confidence, f.class_id, strict=True)
    ]


def xywh(box: np.ndarray) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
