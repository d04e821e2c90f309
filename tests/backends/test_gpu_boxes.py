"""The kernel that selects boxes, built for the CPU, against NumPy's decoding and OpenCV's NMS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import Fake
from gpu_detector import SIZE, answers, both, detector, on_the_cpu, selecting, still
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from raw_maps import FAMILIES

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.frames import Candidates, FrameBoxes, Plane, Planes, Strided
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.grid import cells
from edgesparse.runtime.heads.registry import head as head_of

pytestmark = pytest.mark.usefixtures("host_built_kernels")


HEADED = ["yolov8", "yolov5", "yolox", "yolox-decoded", "yolo-nas"]


@pytest.mark.parametrize("head", HEADED)
@pytest.mark.parametrize("multi_label", [False, True])
def test_boxes_are_those_of_the_cpu(
    fake: Fake, tmp_path: Path, head: str, multi_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes, scores and classes in the same order, even if they exceed the capacity."""
    for detect, batch, share in selecting(fake, tmp_path, head, multi_label, monkeypatch):
        for _ in range(3):
            for boxes, (xyxy, confidence, class_id) in zip(*both(detect, batch, fake), strict=True):
                assert boxes.class_id.tolist() == class_id.tolist()
                assert boxes.final == (len(boxes.xyxy) == 0)
                np.testing.assert_allclose(boxes.confidence, confidence, rtol=1e-6)
                np.testing.assert_allclose(boxes.xyxy, xyxy, atol=0.01, rtol=1e-5)
                assert share != 0.2 or len(boxes.xyxy)
        assert ("maps_float32" if head in FAMILIES else "compact_float32") in fake.kernels


@pytest.mark.parametrize("head", HEADED)
@pytest.mark.parametrize(
    "run",
    [
        {"conf": 0.5},
        {"conf": 0.5, "multi_label": True, "iou": 0.3},
        {"conf": {"default": 0.6, "a": 0.9}, "agnostic": True, "iou": 0.45},
        {"conf": 0.4, "classes": ("b", "c"), "max_det": 5},
        {"conf": 0.5, "iou": 0.0},
    ],
)
def test_nms_keeps_the_boxes_that_opencv_keeps(fake: Fake, tmp_path: Path, head: str, run: dict[str, Any]) -> None:
    """With up to 256 boxes, NMS runs on the GPU: the same boxes in the same order."""
    total = 0
    for seed, share in ((1, 0.3), (2, 0.7), (3, 0.05), (4, 0.0)):
        fake.answers = answers(head, 2, seed=seed, share=share)
        with detector(fake, tmp_path, batch=2, head=head, **run) as detect:
            frames = [still(*SIZE, seed=i) for i in range(2)]
            detections = detect.detect(frames)
            for boxes, decoded, ours in zip(*both(detect, 2, fake), detections, strict=True):
                assert boxes.final == (count_of(detect, decoded) <= 256)
                theirs = detect._detections(FrameBoxes(*decoded), detect._places.of(frames[0], None)[0][1])
                assert ours.class_id.tolist() == theirs.class_id.tolist()
                np.testing.assert_allclose(ours.confidence, theirs.confidence, rtol=1e-6)
                np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=0.01, rtol=1e-5)
                total += len(ours)
    assert total > 10


placed = st.tuples(
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from([0, 2, 4, 10, 20]),
    st.sampled_from([0, 2, 4, 10, 20]),
    st.lists(st.sampled_from([0.0, 0.5, 0.5, 0.75, 0.9]), min_size=3, max_size=3),
)
"""Center, width, height and scores of a candidate: often equal, so that there are many ties, and sometimes with zero
area."""


runs = st.fixed_dictionaries(
    {
        "iou": st.sampled_from([0.0, 0.25, 0.45, 0.5, 0.7, 1.0]),
        "agnostic": st.booleans(),
        "multi_label": st.booleans(),
        "max_det": st.sampled_from([1, 3, 300]),
    }
)


@pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"])
@given(st.lists(st.lists(placed, max_size=126), min_size=2, max_size=2), runs)
@example([[(20, 20, 10, 10, [0.5, 0.5, 0.5])] * 126, []], {"multi_label": True})
@example([[(i % 40, i % 37, 4, 2, [0.5, 0.9, 0.75])] * 1 for i in range(2)], {"agnostic": True, "multi_label": True})
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nms_of_equal_scores(fake: Fake, tmp_path: Path, images: Any, run: dict[str, Any]) -> None:
    same_as_opencv(fake, tmp_path, images, conf=0.5, **run)


@pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"])
@pytest.mark.parametrize("count", [255, 256, 257, 300])
def test_nms_up_to_the_number_of_threads(fake: Fake, tmp_path: Path, count: int) -> None:
    random = np.random.default_rng(count)
    scores = np.zeros((126, 3))
    scores.reshape(-1)[:count] = random.choice([0.5, 0.6, 0.9], count)
    rows = [(*random.integers(0, 60, 2), *random.integers(1, 9, 2) * 2, list(row)) for row in scores]
    same_as_opencv(fake, tmp_path, [rows[::-1], rows], multi_label=True, conf=0.5, iou=0.45)


def same_as_opencv(fake: Fake, folder: Path, images: Any, **run: Any) -> None:
    """The kernel and the CPU keep the same candidates of these two images."""
    output = np.zeros((2, 7, cells(SIZE)), np.float32)
    for image_output, rows in zip(output, images, strict=True):
        for i, (*box, scores) in enumerate(rows):
            image_output[:, i] = (*box, *scores)
    fake.answers = {"output0": output}
    with detector(fake, folder, batch=2, **run) as detect, pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgesparse.runtime.nms.FEW", 0)
        letterbox = detect._places.of(still(*SIZE), None)[0][1]
        for boxes, decoded in zip(*both(detect, 2, fake), strict=True):
            assert boxes.final == (count_of(detect, decoded) <= 256)
            ours, theirs = (detect._detections(each, letterbox) for each in (boxes, FrameBoxes(*decoded)))
            assert ours.class_id.tolist() == theirs.class_id.tolist()
            assert ours.confidence.tolist() == theirs.confidence.tolist()
            np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-3)


def count_of(detect: Detector, boxes: Candidates) -> int:
    """Number of boxes that reach the threshold of their class."""
    return int((boxes[1] >= detect._thresholds[boxes[2]]).sum())


@pytest.mark.parametrize("head", HEADED)
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("limit", [0, 256], ids=["NMS on the CPU", "NMS on the GPU"])
def test_what_is_no_box_is_dropped_and_counted_as_on_the_cpu(
    fake: Fake, tmp_path: Path, head: str, multi_label: bool, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN, infinite and negative values, and values above 1, anywhere in the outputs."""
    monkeypatch.setattr("edgesparse.backends.cuda.slots.NMS_LIMIT", limit)
    counted = 0
    for seed in range(4):
        fake.answers = answers(head, 2, seed=seed, share=0.2)
        rng = np.random.default_rng(seed)
        for output in fake.answers.values():
            chosen = rng.random(output.shape) < 0.02
            output[chosen] = rng.choice([np.nan, np.inf, -np.inf, -20.0, 1.5], int(chosen.sum()))
        with detector(fake, tmp_path, batch=2, head=head, conf=0.5, multi_label=multi_label) as detect:
            frames = [still(*SIZE, seed=i) for i in range(2)]
            ours = detect.detect(frames)
            dropped = detect.dropped
            detect.faults.clear()
            theirs = on_the_cpu(detect, frames, fake)
            assert dropped == detect.dropped
            counted += dropped
            for mine, other in zip(ours, theirs, strict=True):
                assert mine.class_id.tolist() == other.class_id.tolist()
                np.testing.assert_allclose(mine.confidence, other.confidence, rtol=1e-6)
                np.testing.assert_allclose(mine.xyxy, other.xyxy, atol=0.01, rtol=1e-5)
    assert counted > (2 if head == "fastestdet-maps" else 20)  # a fifth of the cells


@pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"])
@pytest.mark.parametrize("head", FAMILIES)
def test_maps_of_a_rewritten_network_are_decoded_on_the_gpu(
    fake: Fake, tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for multi_label in (False, True):
        test_what_is_no_box_is_dropped_and_counted_as_on_the_cpu(fake, tmp_path, head, multi_label, 256, monkeypatch)
    test_nms_keeps_the_boxes_that_opencv_keeps(fake, tmp_path, head, {"conf": 0.4, "classes": ("b", "c"), "max_det": 5})
    for multi_label in (False, True):
        test_boxes_are_those_of_the_cpu(fake, tmp_path, head, multi_label, monkeypatch)


def test_maps_with_a_divided_box_are_decoded_on_the_cpu() -> None:
    whole = {"a": (1, 67, 8, 12), "b": (1, 67, 4, 6), "c": (1, 67, 2, 3)}
    divided = {f"{name}{i}": (1, count, *shape[2:]) for name, shape in whole.items() for i, count in ((0, 32), (1, 35))}
    for shapes, kernel in ((whole, True), (divided, False)):
        layout = Layout(tuple(TensorSpec(name, shape, "float32") for name, shape in shapes.items()), SIZE)
        assert (head_of("yolov8-maps").strided(layout) is not None) == kernel


def test_a_head_with_more_planes_than_the_kernel_takes_is_refused() -> None:
    planes = Planes(6, Plane(0, 1, 6), Plane(0, 1, 6, 24))
    with pytest.raises(ValueError, match="10 planes: the kernel takes 1 to 9"):
        Strided(3, (planes,) * 10)


def test_priors_are_for_boxes_that_are_relative_to_them() -> None:
    planes = Planes(6, Plane(0, 1, 6), Plane(0, 1, 6, 24))
    with pytest.raises(ValueError, match=r"priors None: 'exp' boxes of 6 candidates need \(6, 6\)"):
        Strided(3, (planes,), "exp")
    with pytest.raises(ValueError, match=r"priors \(6, 6\): 'corners' boxes of 6 candidates need None"):
        Strided(3, (planes,), "corners", priors=np.zeros((6, 6), np.float32))


def test_outputs_of_several_types_are_decoded_on_the_cpu(fake: Fake, tmp_path: Path) -> None:
    """No kernel reads two types."""
    fake.answers = answers("yolo-nas", 1, seed=1, share=0.3)
    fake.answers["scores"] = fake.answers["scores"].astype(np.float16)
    with detector(fake, tmp_path, head="yolo-nas", conf=0.5) as detect:
        (ours,), (theirs,) = detect.detect([still(*SIZE)]), on_the_cpu(detect, [still(*SIZE)], fake)
        assert detect.where.endswith("outputs are decoded by the CPU") and ours.class_id.tolist()
    np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
