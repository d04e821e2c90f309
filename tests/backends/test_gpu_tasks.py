"""Masks, keypoints and rotated boxes on the GPU's frame path, with kernels built for the CPU, against the CPU's
path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import Fake
from fake_tensorrt import plan, tensorrt
from gpu_detector import CLASSES, SIZE, still
from numpy.typing import NDArray

from edgesparse.backends.cuda import slots
from edgesparse.backends.tensorrt.runner import TensorRTRunner
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.grid import cells

pytestmark = pytest.mark.usefixtures("host_built_kernels")
COUNT = cells(SIZE)
DETAILS = {"yolov8-seg": 8, "yolov8-pose": 6, "yolov8-obb": 1}


def outputs(head: str, share: float, batch: int = 2) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    center, sides = rng.uniform(0, 60, (batch, 2, COUNT)), rng.uniform(8, 40, (batch, 2, COUNT))
    scores = np.where(rng.random((batch, 1, COUNT)) < share, rng.uniform(0.3, 1, (batch, 3, COUNT)), 0.01)
    rest = rng.uniform(-1, 2, (batch, DETAILS[head], COUNT)) * (40 if head == "yolov8-pose" else 1)
    values = {"output0": np.concatenate([center, sides, scores, rest], 1).astype(np.float32)}
    if head == "yolov8-seg":
        values["output1"] = rng.normal(size=(batch, 8, 16, 24)).astype(np.float32)
    return values


def detector(fake: Fake, folder: Path, head: str, **run: Any) -> Detector:
    tensors: dict[str, Any] = {"images": ["INPUT", [2, 3, *SIZE], "FLOAT"]}
    tensors |= {name: ["OUTPUT", list(value.shape), "FLOAT"] for name, value in fake.answers.items()}
    path = folder / "model.plan"
    path.write_bytes(plan(tensors=tensors))
    keypoints = (2, 3) if head == "yolov8-pose" else None
    spec = DetectorSpec(head=head, classes=CLASSES, input=InputSpec(size=SIZE), keypoints=keypoints)
    return Detector(TensorRTRunner(tensorrt(fake), path), spec, Run(conf=0.5, **run))


@pytest.mark.parametrize("head", DETAILS)
@pytest.mark.parametrize("case", [(0.3, 1024, 256), (0.3, 1024, 0), (0.9, 8, 256), (0.0, 1024, 256)])
def test_objects_are_those_of_the_cpu(
    fake: Fake, tmp_path: Path, head: str, case: tuple[float, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    share, capacity, limit = case
    monkeypatch.setattr(slots, "CAPACITY", capacity)
    monkeypatch.setattr(slots, "NMS_LIMIT", limit)
    fake.answers = outputs(head, share)
    with detector(fake, tmp_path, head, iou=0.5) as detect:
        frames = [still(48, 80, seed=i) for i in range(2)]
        for _ in range(2):
            ours = detect.detect(frames)
        plan, letterbox = detect._rounds._ring._slots[0]._plan, detect._places.of(frames[0], None)[0][1]  # type: ignore[attr-defined]
        whole = [fake.answers[spec.name] for spec in detect.runner.outputs]
        theirs = [detect._detections(plan.decoded(whole, i), letterbox) for i in range(2)]
    assert (sum(map(len, ours)) > 5) == (share > 0)
    for mine, other in zip(ours, theirs, strict=True):
        same(mine, other)


def same(mine: Detections, other: Detections) -> None:
    assert mine.class_id.tolist() == other.class_id.tolist()
    np.testing.assert_allclose(mine.confidence, other.confidence, rtol=1e-6)
    np.testing.assert_allclose(mine.xyxy, other.xyxy, atol=0.01)
    for left, right in ((mine.keypoints, other.keypoints), (mine.rotated, other.rotated)):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            np.testing.assert_allclose(left, right, atol=0.01)
    assert (mine.masks is None) == (other.masks is None)
    for ours, theirs in zip(mine.masks or (), other.masks or (), strict=True):
        assert abs(ours.area - theirs.area) <= 0.02 * theirs.area + 4


@pytest.mark.parametrize("head", DETAILS)
def test_boxes_of_a_frame_without_objects_have_as_many_columns_as_others(fake: Fake, tmp_path: Path, head: str) -> None:
    fake.answers = outputs(head, 0.0)
    with detector(fake, tmp_path, head) as detect:
        detect.detect([still(48, 80)] * 2)
        boxes = detect._rounds._ring._slots[0].finish()
    assert [each.xyxy.shape for each in boxes] == [(0, 4 + DETAILS[head])] * 2


def test_details_that_are_no_numbers_are_dropped_and_counted(fake: Fake, tmp_path: Path) -> None:
    fake.answers = outputs("yolov8-pose", 0.3)
    fake.answers["output0"][:, 7, ::2] = np.nan
    with detector(fake, tmp_path, "yolov8-pose") as detect:
        for detections in detect.detect([still(48, 80)] * 2):
            assert detections.keypoints is not None and np.isfinite(detections.keypoints).all()
    assert detect.faults["details that are not finite numbers"] > 5


def test_a_classifier_is_decoded_by_the_cpu_which_is_reported(fake: Fake, tmp_path: Path) -> None:
    fake.answers = {"output0": np.array([[0.1, 0.7, 0.2], [0.3, 0.2, 0.5]], np.float32)}
    with detector(fake, tmp_path, "classifier") as detect:
        first, second = detect.detect([still(48, 80, seed=i) for i in range(2)])
        assert detect.where == "the GPU, as one CUDA graph; outputs are decoded by the CPU"
    assert (first.names, second.names) == (("b",), ("c",))
    assert first.xyxy.tolist() == [[0, 0, 80, 48]]
