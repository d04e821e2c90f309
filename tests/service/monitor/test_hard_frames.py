"""Hard frames: chosen by what the detector saw, stored within a budget, never the frame loop's problem."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from samples import NAMES, sample_detections, sample_frame, wait_until

from edgesparse.camera import Camera
from edgesparse.config import Run
from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.service.frame_copies import CopiedFrame
from edgesparse.service.monitor import hard_files
from edgesparse.service.monitor.hard_files import HardFiles, HardFrame, read_frames
from edgesparse.service.monitor.hard_frames import LONGEST_GAP, HardFrames
from edgesparse.service.monitor.hard_settings import REASONS, HardFrameSettings

NOISE = np.random.default_rng(2).integers(0, 255, (96, 128, 3), np.uint8)
ENGINE: Any = SimpleNamespace(
    identity=SimpleNamespace(classes=NAMES, model="parts", package="build", sha256="c" * 64),
    run=Run(conf=0.5, cameras=(Camera(name="door", source="0"), Camera(name="yard", source="1", conf=0.8))),
)


@pytest.fixture
def hard(tmp_path: Path) -> Iterator[HardFrames]:
    hard = HardFrames(HardFrameSettings(per_day=5, pause=1), tmp_path, ENGINE)
    yield hard
    hard.close()


def copied(camera: str = "door", *detections: Detections) -> CopiedFrame:
    shown = detections[0] if detections else sample_detections(0, conf=0.55)
    return CopiedFrame(camera, NOISE, shown, time.monotonic_ns(), ("near",))


def tracked(*numbers: int) -> Detections:
    return replace(sample_detections(*(0 for _ in numbers)), track_id=np.array(numbers, np.int64))


def reasons(hard: HardFrames, detections: Detections, camera: str = "door") -> tuple[str, ...]:
    return hard._reasons(sample_frame(camera=camera), detections)


def records(folder: Path) -> list[HardFrame]:
    stored = list(read_frames(folder / "hard"))
    assert not any(isinstance(each, str) for each in stored), stored
    return [each[0] for each in stored if not isinstance(each, str)]


@pytest.mark.parametrize(("camera", "conf", "near"), [("door", 0.55, True), ("door", 0.65, False),
                                                      ("yard", 0.81, True), ("yard", 0.95, False)])  # fmt: skip
def test_a_confidence_near_the_camera_s_own_minimum_is_hard(
    hard: HardFrames, camera: str, conf: float, near: bool
) -> None:
    assert reasons(hard, sample_detections(0, 1, conf=conf), camera) == (("near",) if near else ())
    assert reasons(hard, sample_detections(), camera) == ()


def test_a_track_that_comes_back_has_blinked(hard: HardFrames) -> None:
    seen = [tracked(1, 2), tracked(1), tracked(1, 2), tracked(1, 2), tracked(-1, 1), tracked(-1, 1, 3)]
    assert [reasons(hard, each) for each in seen] == [(), (), ("blink",), (), (), ()]
    for _ in range(LONGEST_GAP + 1):
        assert reasons(hard, tracked(1)) == ()
    assert reasons(hard, tracked(1, 2)) == (), "after so long, it is another object"
    for number in range(10_000):
        hard._blinks["door"].add(np.array([number]))
    assert len(hard._blinks["door"]._seen) <= 2 * LONGEST_GAP, "bounded"


def test_only_the_reasons_of_the_settings_count(tmp_path: Path) -> None:
    hard = HardFrames(HardFrameSettings(reasons=("blink",)), tmp_path, ENGINE)
    assert reasons(hard, sample_detections(0, conf=0.55)) == () and REASONS[0] == "near"
    hard.close()


def test_a_hard_frame_is_stored_whole_with_what_was_seen(hard: HardFrames, tmp_path: Path) -> None:
    frame = sample_frame(1, shape=(240, 320))

    def offered() -> bool:
        frame.time_ns += 10_000_000_000
        hard.offer(frame, sample_detections(1, conf=0.55))
        return len(hard._files) > 0

    wait_until(offered)
    hard.close()
    record = records(tmp_path)[0]
    assert (record.camera, record.reasons, record.package, record.classes) == ("door", ("near",), "build", NAMES)
    assert (record.width, record.height, record.blur) == (320, 240, "none")
    assert [(seen.name, seen.confidence, seen.box) for seen in record.detections] == [("dog", 0.55, (10, 10, 60, 60))]
    image = cv2.imread(str(tmp_path / "hard" / record.file))
    assert image is not None and image.shape == (240, 320, 3) and abs(image.mean() - 90) < 2
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "hard").iterdir())
    state = hard.state()
    assert (
        state["stored"] == len(records(tmp_path)) and state["reasons"]["near"] == state["today"] and json.dumps(state)
    )


def test_no_more_than_a_day_s_budget_even_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = HardFrameSettings(per_day=3)
    for _ in range(2):
        hard = HardFrames(settings, tmp_path, ENGINE)
        for _ in range(3):
            hard.add(copied())
        assert hard.state()["today"] == 3 and len(records(tmp_path)) == 3
        hard.close()
    for file in (tmp_path / "hard").glob("*.jpg"):
        os.utime(file, (time.time() - 90_000, time.time() - 90_000))
    hard = HardFrames(settings, tmp_path, ENGINE)
    hard.add(copied())
    assert len(records(tmp_path)) == 4 and hard.state()["today"] == 1
    hard.close()


def test_the_oldest_give_way_beyond_the_bytes(tmp_path: Path) -> None:
    hard = HardFrames(HardFrameSettings(disk=1_000_000), tmp_path, ENGINE)
    hard._files._most = 100_000
    for _ in range(8):
        hard.add(copied())
    kept = records(tmp_path)
    size = sum(file.stat().st_size for file in (tmp_path / "hard").iterdir())
    assert size == hard.state()["bytes"] <= 100_000 and 1 < len(kept) < 8
    assert kept[-1].file.startswith("000008_"), "numbers only grow"
    hard.close()
    again = HardFiles(tmp_path / "hard", 100_000, 100)
    assert (len(again), again.bytes) == (len(kept), size)
    again._most = 10
    with pytest.raises(SinkError, match=r"needed service\.hard_frames\.disk to be larger"):
        again.store(b"x" * 20, "20260101T000000000Z_door", 0, lambda file, sha256: kept[0])


def test_what_a_kill_left_half_written_is_removed_and_other_files_are_kept(hard: HardFrames, tmp_path: Path) -> None:
    hard.add(copied())
    folder = tmp_path / "hard"
    (folder / "000007_20260101T000000000Z_door.jpg").write_bytes(b"without a record")
    (folder / ".000008_20260101T000000000Z_door.jpg.12.part").write_bytes(b"half")
    (folder / "holiday.jpg").write_bytes(b"mine")
    assert len(HardFiles(folder, 10**9, 10)) == 1
    assert sorted(path.name[:7] for path in folder.iterdir()) == ["000001_", "000001_", "holiday"]


def test_a_damaged_record_or_another_image_is_named(hard: HardFrames, tmp_path: Path) -> None:
    for _ in range(3):
        hard.add(copied())
    first, second, _ = sorted((tmp_path / "hard").glob("*.json"))
    first.write_text("{")
    second.with_suffix(".jpg").write_bytes(b"other")
    faults = [each for each in read_frames(tmp_path / "hard") if isinstance(each, str)]
    assert [fault.partition(": ")[2] for fault in faults] == [
        "its record is damaged",
        "it is not the image that its record describes",
    ]


@pytest.mark.parametrize("blur", ["none", "objects", "frame"])
def test_what_the_settings_say_is_unrecognizable(tmp_path: Path, blur: Any) -> None:
    hard = HardFrames(HardFrameSettings(blur=blur), tmp_path, ENGINE)
    hard.add(copied())
    (record,) = records(tmp_path)
    image = cv2.imread(str(tmp_path / "hard" / record.file))
    assert image is not None and record.blur == blur
    assert (image[15:55, 15:55].std() > 40) == (blur == "none") and (image[70:, 90:].std() > 40) == (blur != "frame")
    hard.close()


def test_a_full_disk_is_reported_and_nothing_stops(
    hard: HardFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hard_files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    hard.add(copied())
    assert hard.trouble == "less than 64 MB are free" and records(tmp_path) == []
    monkeypatch.undo()
    hard.add(copied())
    assert hard.trouble == "" and len(records(tmp_path)) == 1


def test_looking_for_hard_frames_allocates_nothing_of_a_frame_s_size(hard: HardFrames) -> None:
    frame, detections = sample_frame(shape=(540, 960)), tracked(1, 2, 3)
    hard.offer(frame, detections)
    tracemalloc.start()
    for _ in range(300):
        hard.offer(frame, detections)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 and hard.state()["stored"] == 0
