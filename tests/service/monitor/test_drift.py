"""Drift: what a camera shows is compared with its first hours, per engine, across restarts."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from samples import sample_detections, sample_frame, wait_until

from edgesparse.camera import Camera
from edgesparse.config import Run
from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.service.frame_copies import CopiedFrame
from edgesparse.service.monitor import baseline, drift
from edgesparse.service.monitor.drift import Drift, describe
from edgesparse.service.monitor.drift_settings import DriftSettings
from edgesparse.service.outputs.events import Event
from edgesparse.stream.frames import Image

STEP = 40.0
DAY, NIGHT = 120, 20


class Watching:
    """A camera whose sampled frames are passed to a Drift, STEP seconds apart, on a clock that goes on."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.events = folder, list[Event]()
        self.settings = DriftSettings(**{"interval": STEP, "baseline": 3, "window": 2, **settings})
        self.now, self.seen = time.monotonic(), 0
        self.open()

    def open(self, sha256: str = "a", **run: Any) -> None:
        self.drift = Drift(self.settings, self.folder, lambda name: self.seen, self.events.append)
        self.switch(sha256, **run)

    def switch(self, sha256: str, **run: Any) -> None:
        cameras = (Camera(name="door", source="rtsp://user:secret@10.0.0.7/stream"),)
        engine: Any = SimpleNamespace(
            identity=SimpleNamespace(sha256=sha256, package="build"), run=Run(cameras=cameras, **run)
        )
        self.drift.engine(engine)

    def hours(
        self, count: float, gray: int = DAY, detections: Detections | None = None, image: Image | None = None
    ) -> None:
        shown = sample_detections(0) if detections is None else detections
        image = np.full((48, 64, 3), gray, np.uint8) if image is None else image
        for _ in range(round(count * 3600 / STEP)):
            self.now += STEP
            self.seen += len(shown)
            self.drift._sampled(CopiedFrame("door", image, shown, int(self.now * 1e9)))

    @property
    def state(self) -> dict[str, Any]:
        return self.drift.states()["door"]


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Watching]:
    camera = Watching(tmp_path)
    yield camera
    camera.drift.close()


def learned(camera: Watching) -> None:
    """Observe the baseline and a full window; the first sample only starts the clock."""
    camera.hours(5.1)
    assert camera.state["state"] == "watching" and camera.events == []


def example(camera: Watching) -> Image:
    path = camera.drift.example("door", 0)
    assert path is not None
    image = cv2.imread(str(path))
    assert image is not None
    return image


def test_a_camera_that_shows_the_same_has_not_drifted(camera: Watching) -> None:
    camera.hours(1.5)
    assert camera.state["state"] == "learning" and camera.state["baseline_hours"] == pytest.approx(1.0)
    camera.hours(2)
    assert camera.state["state"] == "waiting"
    camera.hours(3)
    state = camera.state
    assert (state["state"], state["drifted"], state["since"]) == ("watching", [], None)
    assert all(abs(each["psi"]) < 0.01 for each in state["quantities"].values())
    assert state["detections_per_hour"] == {"baseline": 90, "now": 90}


@pytest.mark.parametrize(
    ("quantity", "change"),
    [
        ("brightness", {"gray": NIGHT}),
        ("scores", {"detections": sample_detections(0, conf=0.4)}),
        ("detections", {"detections": sample_detections()}),
    ],
)
def test_each_kind_of_change_is_an_alarm_with_examples_and_ends(
    camera: Watching, quantity: str, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    learned(camera)
    camera.hours(2, **change)
    (event,) = camera.events
    record = event.record
    assert (event.name, event.phase, event.camera, event.detected) == ("drift", "alarm", "door", False)
    assert record["drifted"] == [quantity] and record["package"] == "build" and record["id"] == event.id
    assert len(record["examples"]) == 3 and camera.state["state"] == "drifted"  # type: ignore[arg-type]
    assert f"door: {quantity} (PSI" in caplog.text and json.dumps(record)
    if quantity == "brightness":
        assert example(camera).mean() < 30, "frames that show the change"
    assert camera.drift.example("door", 3) is None and camera.drift.example("yard", 0) is None
    camera.hours(3)
    assert [each.phase for each in camera.events] == ["alarm", "end"]
    assert camera.events[1].id == event.id and camera.events[1].record["start_time"] == record["time"]
    assert camera.state["state"] == "watching" and camera.drift.example("door", 0) is None


def test_a_blurred_lens_is_an_alarm(camera: Watching) -> None:
    sharp = cv2.cvtColor(np.kron(np.indices((12, 16)).sum(axis=0) % 2, np.ones((4, 4))).astype(np.uint8) * 255, 8)
    camera.hours(5.1, image=sharp)
    camera.hours(2, image=cv2.GaussianBlur(sharp, (0, 0), 3))
    (event,) = camera.events
    assert event.record["drifted"] == ["sharpness"]


def test_time_without_frames_counts_for_nothing(camera: Watching) -> None:
    camera.hours(0.5)
    camera.now += 90_000
    camera.hours(0.4)
    assert camera.state["baseline_hours"] == 0, "less than an hour was observed"


def test_baselines_and_alarms_survive_a_restart(camera: Watching) -> None:
    learned(camera)
    camera.hours(2, NIGHT)
    camera.drift.close()
    before = camera.state
    camera.open()
    camera.hours(0.1, NIGHT)
    assert camera.state == before and before["examples"] == 3
    assert camera.drift.example("door", 2) is not None
    camera.hours(3)
    assert [event.phase for event in camera.events] == ["alarm", "end"], "no second alarm"


def test_another_engine_starts_a_baseline_and_a_return_finds_the_old_one(camera: Watching) -> None:
    learned(camera)
    camera.switch("b")
    camera.hours(0.2)
    assert camera.state["state"] == "learning"
    camera.switch("a")
    camera.hours(0.2)
    assert camera.state["state"] == "watching"
    camera.switch("a", conf=0.4)
    camera.hours(0.2)
    assert camera.state["state"] == "learning", "another threshold changes the scores"


def test_files_are_bounded_private_and_hold_no_password(camera: Watching) -> None:
    for engine in "abcdefg":
        camera.switch(engine)
        camera.hours(0.3)
    camera.drift.close()
    files = list((camera.folder / "drift").iterdir())
    assert len(files) == baseline.KEPT and all(file.stat().st_mode & 0o077 == 0 for file in files)
    assert all(file.stat().st_size < 20_000 and "secret" not in file.read_text() for file in files)


def _shorter(values: dict[str, Any]) -> None:
    values["baseline"]["bins"][0].pop()


def _negative(values: dict[str, Any]) -> None:
    values["current"]["bins"][0][0] = -1


def _unknown(values: dict[str, Any]) -> None:
    values["more"] = 1


@pytest.mark.parametrize("damage", [_shorter, _negative, _unknown, None])
def test_a_damaged_file_is_set_aside_and_a_baseline_starts(
    camera: Watching, damage: Callable[[dict[str, Any]], None] | None, caplog: pytest.LogCaptureFixture
) -> None:
    learned(camera)
    camera.drift.close()
    (file,) = (camera.folder / "drift").glob("*.json")
    values = json.loads(file.read_text())
    if damage is not None:
        damage(values)
    file.write_text(json.dumps(values) if damage is not None else "{")
    camera.open()
    camera.hours(0.2)
    assert camera.state["state"] == "learning" and "cannot be used" in caplog.text
    assert file.with_suffix(".damaged").is_file()


def test_a_disk_that_refuses_is_reported_and_nothing_stops(
    camera: Watching, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(baseline, "replace_text", full)
    learned(camera)
    assert "No space left" in camera.drift.trouble
    monkeypatch.undo()
    camera.hours(1)
    assert camera.drift.trouble == ""
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError):
        Drift(DriftSettings(), tmp_path / "file", lambda name: 0, print)


@pytest.mark.parametrize("blur", ["none", "objects", "frame"])
def test_examples_are_blurred_as_the_settings_say(tmp_path: Path, blur: Any) -> None:
    camera, noise = Watching(tmp_path, blur=blur), np.random.default_rng(1).integers(0, 255, (96, 128, 3), np.uint8)
    learned(camera)
    camera.hours(2, image=noise)
    image = example(camera).astype(float)
    inside, outside = image[20:50, 20:50].std(), image[70:, 90:].std()
    assert (inside > 40) == (blur == "none") and (outside > 40) == (blur != "frame")
    camera.drift.close()


def test_no_examples_are_stored_where_the_settings_say_so(tmp_path: Path) -> None:
    camera = Watching(tmp_path, examples=0)
    learned(camera)
    camera.hours(2, NIGHT)
    assert camera.events[0].record["examples"] == [] and not list((tmp_path / "drift").glob("*.jpg"))
    camera.drift.close()


def test_the_frame_loop_copies_a_frame_per_interval_and_allocates_nothing(camera: Watching) -> None:
    taken: list[int] = []
    camera.drift._copies._take = lambda frame: taken.append(frame.time_ns)
    frame, detections = sample_frame(shape=(540, 960)), sample_detections(0)

    def offered() -> bool:
        frame.time_ns = time.monotonic_ns()
        camera.drift.offer(frame, detections)
        return bool(taken)

    wait_until(offered)
    tracemalloc.start()
    for step in range(200):
        frame.time_ns += 1_000_000 * step
        camera.drift.offer(frame, detections)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(taken) == 1 and peak < 20_000, "20 seconds of frames, of which the interval leaves none"
    frame.time_ns += int(STEP * 1e9)
    camera.drift.offer(frame, detections)
    wait_until(lambda: len(taken) == 2)


def test_what_drifted_is_said_in_one_line() -> None:
    quantities = {"scores": {"psi": 0.4, "baseline": 0.71, "now": 0.5}}
    assert describe({"drifted": ["scores"], "quantities": quantities}) == "scores (PSI 0.40, 0.71 to 0.5)"
    assert drift.CALM < 1
