"""From frames to detections, on networks with outputs chosen by the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesparse.backends import Runner, backend
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.errors import BuildError, ConfigError, ModelError, SourceError
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.thresholds import thresholds

NAMES = ("person", "dog", "traffic light")
Row = tuple[float, float, float, float, float, int]
"""x1, y1, x2, y2 in the input's pixels, confidence, class."""
FRAME = np.zeros((64, 64, 3), np.uint8)


def answers(folder: Path, images: Sequence[Sequence[Row]], extra: Sequence[Any] = ()) -> Runner:
    """A 64x64 network of the end2end family that outputs these boxes for the images of its batch."""
    batch = len(images)
    values = np.zeros((batch, 5, 6))
    for image, rows in enumerate(images):
        values[image, : len(rows)] = np.reshape(rows, (-1, 6))
    plan = {
        "inputs": [["images", [batch, 3, 64, 64], "float32"], *extra],
        "outputs": [["output0", [batch, 5, 6], "float32"]],
        "values": {"output0": values.tolist()},
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    return backend("null").load(path)


def detector(runner: Runner, run: Run | None = None, names: Sequence[str] = NAMES) -> Detector:
    return Detector(runner, DetectorSpec(head="end2end", classes=tuple(names), input=InputSpec(size=(64, 64))), run)


def labels(folder: Path, rows: Sequence[Row], **run: Any) -> list[str]:
    with detector(answers(folder, [rows]), Run(**run)) as detect:
        return [NAMES[i] for i in detect(FRAME).class_id]


ONE_EACH: list[Row] = [(0, 0, 9, 9, 0.4, 0), (20, 0, 29, 9, 0.5, 1), (40, 0, 49, 9, 0.6, 2)]


def test_boxes_are_in_the_frames_pixels_and_confidence_falls(tmp_path: Path) -> None:
    with detector(answers(tmp_path, [ONE_EACH])) as detect:
        detections = detect(np.zeros((128, 128, 3), np.uint8))
    assert detections.xyxy.tolist() == [[80, 0, 98, 18], [40, 0, 58, 18], [0, 0, 18, 18]]
    np.testing.assert_allclose(detections.confidence, [0.6, 0.5, 0.4])
    assert detections.class_id.tolist() == [2, 1, 0] and len(detections) == 3
    assert (detect.times[:2] > 0).all()


@pytest.mark.parametrize(
    ("run", "kept"),
    [
        ({"conf": 0.45}, ["traffic light", "dog"]),
        ({"conf": {"default": 0.55, "person": 0.3}}, ["traffic light", "person"]),
        ({"conf": {"dog": 0.9}}, ["traffic light", "person"]),
        ({"conf": {"0": 0.9}}, ["traffic light", "dog"]),
        ({"classes": ("dog", "0")}, ["dog", "person"]),
        ({"max_det": 1}, ["traffic light"]),
        ({"conf": 0.99}, []),
    ],
)
def test_thresholds_and_classes_choose(tmp_path: Path, run: dict[str, Any], kept: list[str]) -> None:
    assert labels(tmp_path, ONE_EACH, **run) == kept


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run(classes=("trafic light",)), "run.classes: no class 'trafic light': did you mean 'traffic light'?"),
        (Run(classes=("3",)), "run.classes: no class '3': known here are person, dog, traffic light"),
        (Run(conf={"dgo": 0.5}), "run.conf: no class 'dgo': did you mean 'dog'?"),
    ],
)
def test_an_unknown_class_names_the_nearest(run: Run, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        thresholds(run, NAMES)
    assert str(caught.value) == message


def test_a_class_is_its_name_before_it_is_a_number() -> None:
    assert thresholds(Run(classes=("1",)), ("1", "0")).tolist() == [0.25, np.inf]


def test_each_frame_of_a_batch_has_its_own_detections_and_size(tmp_path: Path) -> None:
    runner = answers(tmp_path, [ONE_EACH[:1], ONE_EACH[1:], []])
    with detector(runner) as detect:
        assert detect.batch == 3
        frames = [np.zeros((64 * n, 64 * n, 3), np.uint8) for n in (1, 2, 3)]
        detections = detect.detect(frames)
        assert [len(d) for d in detections] == [1, 2, 0]
        assert detections[0].xyxy[0, 2] == 9 and detections[1].xyxy[1, 2] == 58
        assert [len(d) for d in detect.detect(frames[:2])] == [1, 2]
        assert detect.detect([]) == []


def test_a_bad_frame_is_refused_and_the_next_one_is_fine(tmp_path: Path) -> None:
    with detector(answers(tmp_path, [ONE_EACH])) as detect:
        with pytest.raises(SourceError):
            detect(np.zeros((0, 0, 3), np.uint8))
        assert len(detect(FRAME)) == 3


def test_an_input_for_the_images_sizes_gets_the_inputs_own(tmp_path: Path) -> None:
    """Boxes are then in input pixels; RT-DETR's own exports expect (width, height)."""
    runner = answers(tmp_path, [[]], [["orig_target_sizes", [1, 2], "int64"]])
    with detector(runner):
        assert runner.buffers["orig_target_sizes"].tolist() == [[64, 64]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["threshold", [1], "float32"], "cannot fill the input threshold 1 float32"),
        (["threshold", [], "float32"], "cannot fill the input threshold scalar float32"),
        (["other", [1, 3, 64, 64], "float32"], "needed one image input, found images .*, other"),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, extra: list[Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        detector(answers(tmp_path, [[]], [extra]))


BROKEN: dict[str, list[Any]] = {
    "no width": [9, 0, 9, 9, 0.9, 1],
    "a negative width": [9, 0, 5, 9, 0.9, 1],
    "a negative height": [0, 9, 9, 0, 0.9, 1],
    "a corner that is no number": [0, "nan", 9, 9, 0.9, 1],
    "an infinite corner": [0, 0, "inf", 9, 0.9, 1],
    "a confidence above 1": [0, 0, 9, 9, 72.2, 1],
    "a confidence that is no number": [0, 0, 9, 9, "nan", 1],
    "a class beyond the names": [0, 0, 9, 9, 0.9, 3],
    "a negative class": [0, 0, 9, 9, 0.9, -1],
    "a class that is no whole number": [0, 0, 9, 9, 0.9, 1.5],
}


@pytest.mark.parametrize("row", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_box_is_dropped_and_counted(tmp_path: Path, row: list[Any]) -> None:
    with detector(answers(tmp_path, [[*ONE_EACH, tuple(map(float, row))]])) as detect:  # type: ignore[list-item]
        assert len(detect(FRAME)) == 3 and detect.dropped == 1
        assert len(detect(FRAME)) == 3 and detect.dropped == 2


def test_what_stays_below_its_threshold_is_not_counted(tmp_path: Path) -> None:
    with detector(answers(tmp_path, [[(9, 0, 5, 9, 0.3, 0)]]), Run(conf={"default": 0.1, "person": 0.5})) as detect:
        assert len(detect(FRAME)) == 0 and detect.dropped == 0


def test_a_confidence_that_was_rounded_above_1_is_1(tmp_path: Path) -> None:
    with detector(answers(tmp_path, [[(0, 0, 9, 9, 1.0005, 0)]])) as detect:
        assert detect(FRAME).confidence.tolist() == [1.0] and detect.dropped == 0


def test_a_box_in_the_padding_alone_is_no_detection(tmp_path: Path) -> None:
    """A frame twice as wide as high fills the middle half of the input."""
    with detector(answers(tmp_path, [[(0, 0, 9, 9, 0.9, 0), (0, 20, 9, 29, 0.9, 0)]])) as detect:
        assert detect(np.zeros((32, 64, 3), np.uint8)).xyxy.tolist() == [[0, 4, 9, 13]]


def test_as_many_names_as_the_network_has_classes_are_needed(tmp_path: Path) -> None:
    plan = {"inputs": [["x", [1, 3, 64, 64], "float32"]], "outputs": [["y", [1, 7, 84], "float32"]]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    spec = DetectorSpec(head="yolov8", classes=("a", "b"), input=InputSpec(size=(64, 64)))
    with pytest.raises(ModelError, match="the network has 3 classes, 'classes:' names 2: make them equal"):
        Detector(backend("null").load(tmp_path / "plan.json"), spec)


@pytest.mark.parametrize(("agnostic", "kept"), [(False, 3), (True, 1)])
def test_a_head_that_needs_it_gets_nms(tmp_path: Path, agnostic: bool, kept: int) -> None:
    """Five predictions at the same place: three of one class, two of other classes."""
    values: NDArray[Any] = np.zeros((1, 7, 84))
    values[0, :4, :5] = [[20], [20], [10], [10]]
    values[0, [4, 4, 4, 5, 6], range(5)] = 0.9
    plan = {
        "inputs": [["x", [1, 3, 64, 64], "float32"]],
        "outputs": [["y", [1, 7, 84], "float32"]],
        "values": {"y": values.tolist()},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    spec = DetectorSpec(head="yolov8", classes=NAMES, input=InputSpec(size=(64, 64)))
    with Detector(backend("null").load(tmp_path / "plan.json"), spec, Run(agnostic=agnostic)) as detect:
        assert len(detect(FRAME)) == kept


def in_slots(folder: Path, slots: int, **more: Any) -> Detector:
    """A detector whose runner takes several batches at once; the output is one box per image."""
    answers(folder, [ONE_EACH[:1]])
    plan = json.loads((folder / "plan.json").read_text()) | {"slots": slots} | more
    (folder / "plan.json").write_text(json.dumps(plan))
    return detector(backend("null").load(folder / "plan.json"))


@pytest.mark.parametrize("slots", [0, 1, 3])
def test_batches_come_back_in_the_order_in_which_they_went_in(tmp_path: Path, slots: int) -> None:
    frames = [np.zeros((64 * n, 64 * n, 3), np.uint8) for n in range(1, 9)]
    with in_slots(tmp_path, slots) as detect:
        assert detect.depth == max(slots, 1) and detect.in_flight == 0
        sides: list[float] = []
        for frame in frames:
            if detect.in_flight == detect.depth:
                sides.append(float(detect.collect()[0].xyxy[0, 2]))
            detect.submit([frame])
        while detect.in_flight:
            sides.append(float(detect.collect()[0].xyxy[0, 2]))
        assert sides == pytest.approx([9.0 * n for n in range(1, 9)])


def test_who_submits_collects(tmp_path: Path) -> None:
    with in_slots(tmp_path, 2) as detect:
        with pytest.raises(RuntimeError, match="nothing is in flight"):
            detect.collect()
        detect.submit([FRAME])
        with pytest.raises(RuntimeError, match="1 batches are in flight: collect"):
            detect(FRAME)
        detect.submit([FRAME])
        with pytest.raises(RuntimeError, match="2 batches are in flight, as many as there are slots: collect"):
            detect.submit([FRAME])
        assert detect.in_flight == 2
        for bad in ([], [FRAME, FRAME]):
            with pytest.raises(ModelError, match="needed 1 to 1"):
                detect.submit(bad)


def test_an_error_in_mid_flight_frees_its_slot_and_the_others_come_back(tmp_path: Path) -> None:
    with in_slots(tmp_path, 3, fail_at=1) as detect:
        for _ in range(3):
            detect.submit([FRAME])
        assert len(detect.collect()[0]) == 1
        with pytest.raises(BuildError, match="inference 1 failed"):
            detect.collect()
        with pytest.raises(BuildError, match="inference 1 failed"):
            detect.collect()
        assert detect.in_flight == 0
        detect.submit([FRAME])


def test_closing_while_busy_drops_what_is_in_flight(tmp_path: Path) -> None:
    detect = in_slots(tmp_path, 2)
    detect.submit([FRAME])
    detect.submit([FRAME])
    detect.close()
    assert detect.in_flight == 0
    with pytest.raises(RuntimeError):
        detect.submit([FRAME])
    detect.close()


@pytest.mark.parametrize("pixels", ["rgb", "nv12", "yuyv"])
def test_frames_in_other_pixels_are_the_same_image(tmp_path: Path, pixels: Any) -> None:
    """Gray is the same in every pixel format, so the network's input must equal that of the BGR frame."""
    gray = np.full((48, 64, 3), 126, np.uint8)  # luma 16 + 126 * 219 / 255 is close to an integer
    luma = 16 + round(126 * 219 / 255)
    frame = gray
    if pixels == "nv12":
        frame = np.concatenate([np.full((48, 64), luma), np.full((24, 64), 128)]).astype(np.uint8)
    if pixels == "yuyv":
        frame = np.stack([np.full((48, 64), luma), np.full((48, 64), 128)], -1).astype(np.uint8)
    with detector(answers(tmp_path, [[]])) as detect:
        images = detect.runner.buffers["images"]  # type: ignore[attr-defined]
        detect(gray)
        right = images.copy()
        detect.detect([frame], pixels)
        assert np.abs(images - right).max() <= 2.01 / 255
        if pixels == "yuyv":
            detect(frame)  # recognized by its shape
            assert np.abs(images - right).max() <= 2.01 / 255
