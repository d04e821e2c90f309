"""Boxes that leave the GPU in the frame's pixels, against the CPU's conversion: the same float32 values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import Fake, Stream
from gpu_detector import SIZE, answers, detector, still
from numpy.typing import NDArray

from edgesparse.backends.frames import FrameBoxes
from edgesparse.config import InputSpec, Letterbox
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.grid import cells
from edgesparse.tiles import Tiles

pytestmark = pytest.mark.usefixtures("host_built_kernels")
SHAPES = [(48, 80), (30, 200), (200, 30), (64, 96), (1080, 1920), (5, 3)]


def boxes_of(detect: Detector, frames: list[NDArray[np.uint8]]) -> list[FrameBoxes]:
    """What the slot returns."""
    detect._rounds._ring.submit([(frame, detect._places.of(frame, None)[0][0]) for frame in frames])
    return detect._rounds._ring.collect()[0]


def by_the_cpu(detect: Detector, frames: list[NDArray[np.uint8]], fake: Fake) -> list[Detections]:
    plan: Any = detect._rounds._ring._slots[0]._plan  # type: ignore[attr-defined]
    whole = [fake.answers[spec.name] for spec in detect.runner.outputs]
    places = [detect._places.of(frame, None)[0][1] for frame in frames]
    return [detect._detections(plan.decoded(whole, i), place) for i, place in enumerate(places)]


def same(ours: list[Detections], theirs: list[Detections]) -> int:
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.xyxy, other.xyxy)
        np.testing.assert_array_equal(mine.confidence, other.confidence)
        np.testing.assert_array_equal(mine.class_id, other.class_id)
        types = [values.dtype.name for values in (mine.xyxy, mine.confidence, mine.class_id)]
        assert types == ["float32", "float32", "int64"]
        assert mine.xyxy.flags.c_contiguous and mine.xyxy.flags.owndata
    return sum(map(len, ours))


@pytest.mark.parametrize("letterbox", ["centre", "top-left", "stretch", "crop"])
def test_they_are_those_of_the_cpu_for_frames_of_every_shape(fake: Fake, tmp_path: Path, letterbox: Letterbox) -> None:
    """Frames of a batch differ in shape, and so do those that a slot gets in turn."""
    fake.answers = answers("yolov8", 3, seed=1, share=0.3)
    with detector(fake, tmp_path, batch=3, conf=0.5, spec=InputSpec(size=SIZE, letterbox=letterbox)) as detect:
        total = 0
        for turn in range(6):
            frames = [still(*SHAPES[(turn + i) % 6]) for i in range(3)]
            assert all(boxes.in_frame and boxes.final for boxes in boxes_of(detect, frames))
            total += same(detect.detect(frames), by_the_cpu(detect, frames, fake))
        assert total > 50


def test_boxes_in_the_padding_are_left_out_after_the_limit(fake: Fake, tmp_path: Path) -> None:
    """The frame is in rows 25 to 38 of the input; of the three most confident boxes one lies above it."""
    output = np.zeros((1, 7, cells(SIZE)), np.float32)
    for i, (y, score) in enumerate([(5, 0.95), (32, 0.9), (60, 0.85), (30, 0.8), (36, 0.7)]):
        output[0, :5, i] = (10 + 15 * i, y, 8, 6, score)
    fake.answers = {"output0": output}
    frame = still(30, 200)
    with detector(fake, tmp_path, conf=0.5, max_det=4) as detect:
        ours = detect.detect([frame])
        assert [round(float(each), 2) for each in ours[0].confidence] == [0.9, 0.8]
        same(ours, by_the_cpu(detect, [frame], fake))
        output[0, 1, :5] = 5
        assert len(detect.detect([frame])[0]) == 0 and boxes_of(detect, [frame])[0].xyxy.shape == (0, 4)


def test_they_are_merged_from_tiles_as_the_cpus(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, frame = Tiles(size=(80, 100), overlap=0.3), still(160, 202)
    fake.answers = answers("yolov8", 16, seed=3, share=0.1)
    results = []
    for limit in (256, 0):  # without NMS on the GPU the CPU converts boxes
        monkeypatch.setattr("edgesparse.backends.cuda.slots.NMS_LIMIT", limit)
        with detector(fake, tmp_path, batch=16, tiles=tiles, conf=0.5) as detect:
            results.append(detect.detect([frame]))
            assert detect.images == (10, 1)
    assert same(results[0], results[1]) > 10


def test_they_stay_when_the_slot_is_used_again(fake: Fake, tmp_path: Path) -> None:
    fake.answers = answers("yolov8", 1, seed=1, share=0.3)
    with detector(fake, tmp_path, conf=0.5) as detect:
        first = detect(still(48, 80))
        kept = first.xyxy.copy()
        fake.answers["output0"] = answers("yolov8", 1, seed=2, share=0.3)["output0"]
        for _ in range(2 * detect.depth):
            assert detect(still(48, 80)).xyxy.tolist() != kept.tolist()
        assert len(kept) and first.xyxy.tolist() == kept.tolist()


def test_a_batch_on_a_shared_stream_waits_for_itself_alone(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answers = answers("yolov8", 1, seed=1, share=0.3)
    with detector(fake, tmp_path, conf=0.5) as detect:
        for _ in range(detect.depth):
            detect(still(48, 80))
        waits = list[bool]()
        monkeypatch.setattr(Stream, "synchronize", lambda self: waits.append(True))
        assert len(detect(still(48, 80)))
        assert len(waits) == (0 if fake.integrated else 1), "a slot with a stream of its own needs no event"
