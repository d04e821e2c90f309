"""Many cameras on one engine: shares, rates, counts per camera, changes while running, a camera that is away."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesparse.backends import backend
from edgesparse.config import Camera, DetectorSpec, InputSpec, Run
from edgesparse.errors import BuildError, CameraUnavailable, ConfigError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import CameraStatus, Feed
from edgesparse.stream.frames import Frame
from edgesparse.stream.pipeline import Loop
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.isolated import IsolatedOpener
from edgesparse.stream.sources.live import LiveSource

CLASSES = ("person", "cat", "dog")


class Steady(Source):
    """A camera with `fps` frames per second, driven by the clock without a thread."""

    live = True

    def __init__(self, name: str = "steady", fps: float = 1000.0) -> None:
        self.name, self.fps = name, fps
        self.watched = self.closed = 0
        self._begun, self._last = time.monotonic(), -1
        self._image = np.zeros((48, 64, 3), np.uint8)

    def read(self) -> Frame | None:
        index = int((time.monotonic() - self._begun) * self.fps)
        if index == self._last:
            time.sleep(0.001)
            if self.awake is not None:
                self.awake.set()
            return None
        self.dropped += index - self._last - 1
        self._last = index
        self.newest_ns = int((self._begun + index / self.fps) * 1e9)
        return Frame(self._image, self.newest_ns, index, self.name)

    def watch(self) -> None:
        self.watched += 1

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


class ByCamera(Sink):
    def __init__(self) -> None:
        self.by_camera: dict[str, list[Detections]] = {}
        self.ages: list[float] = []

    def write(self, frame: Frame, detections: Detections) -> None:
        self.by_camera.setdefault(frame.source, []).append(detections)
        self.ages.append((time.monotonic_ns() - frame.time_ns) / 1e9)

    def close(self) -> None:
        pass

    def frames(self) -> dict[str, int]:
        return {name: len(detections) for name, detections in self.by_camera.items()}


class Recorder:
    """An observer that records its arguments."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, list[CameraStatus]]] = []
        self.frames: list[tuple[str, int, np.ndarray]] = []

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: np.ndarray) -> float:
        assert frame.source == camera.name
        self.frames.append((camera.name, frame.index, row.copy()))
        return 0.0

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        self.updates.append((time.monotonic(), [dataclasses.replace(camera) for camera in cameras]))


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[Detector]:
    yield make_detector(tmp_path)


def make_detector(folder: Path, run: Run | None = None, batch: int = 1, **plan: object) -> Detector:
    """Detects two people and a dog in every frame of 64 x 48: their feet are at x 5, 25 and 45, y 18, 28 and 48."""
    boxes = [[0, 8, 10, 18, 0.9, 0], [20, 8, 30, 28, 0.8, 0], [40, 8, 50, 48, 0.7, 2], [0] * 6]
    contents = {
        "inputs": [["images", [batch, 3, 64, 64], "float32"]],
        "outputs": [["output0", [batch, 4, 6], "float32"]],
        "values": {"output0": [boxes] * batch},
        **plan,
    }
    path = folder / f"plan-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(contents))
    spec = DetectorSpec(head="end2end", classes=CLASSES, input=InputSpec(size=(64, 64)))
    return Detector(backend("null").load(path), spec, run)


def feed(detector: Detector, source: Source, name: str, **settings: object) -> Feed:
    camera = Camera.model_validate_json(json.dumps({"name": name, "source": "0", **settings}))
    run = detector.run.model_copy(update={"cameras": (camera,)})
    return Feed(camera, source, run, CLASSES)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_engine_that_is_too_slow_is_shared_evenly_and_no_frame_grows_old(tmp_path: Path, batch: int) -> None:
    """Four cameras with 100 frames per second and one with 5, on an engine for 100 frames per second."""
    slow = make_detector(tmp_path, batch=batch, seconds=0.01 * batch)
    feeds = [feed(slow, Steady(fps=100), f"fast-{n}") for n in range(4)] + [feed(slow, Steady(fps=5), "slow")]
    seen = ByCamera()
    Loop(feeds, slow, [seen]).run(limit=120)
    shares = seen.frames()
    assert shares["slow"] >= 4, "each of its frames"
    fast = [shares[f"fast-{n}"] for n in range(4)]
    assert max(fast) - min(fast) <= 1
    assert np.median(seen.ages) < 0.2


def test_frames_of_several_cameras_make_a_batch(tmp_path: Path) -> None:
    both = make_detector(tmp_path, batch=2)
    calls: list[int] = []
    submit = both.submit

    def counted(frames: Any, **options: Any) -> None:
        calls.append(len(frames))
        submit(frames, **options)

    both.submit = counted  # type: ignore[method-assign, assignment]
    Loop([feed(both, Steady(fps=1e9), name) for name in "abc"], both).run(limit=9)
    assert calls == [2, 2, 2, 2, 1]


def test_a_rate_is_kept(detector: Detector) -> None:
    seen, stop = ByCamera(), threading.Event()
    feeds = [feed(detector, Steady(), "all"), feed(detector, Steady(), "some", rate=20)]
    threading.Timer(1.0, stop.set).start()
    summary = Loop(feeds, detector, [seen], stop=stop).run()
    assert summary.ended == "stopped"
    assert 5 <= seen.frames()["some"] <= 20 * summary.seconds + 2
    assert seen.frames()["all"] > 2 * seen.frames()["some"]


def test_each_camera_has_its_own_thresholds_classes_and_zones(tmp_path: Path) -> None:
    zones = {"left": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]], "top": [[0, 0], [1, 0], [1, 0.4]]}
    cameras = [
        {"name": "plain", "source": "0"},
        {"name": "sure", "source": "0", "conf": 0.85},
        {"name": "each", "source": "0", "conf": {"dog": 0.9, "default": 0.1}},
        {"name": "dogs", "source": "0", "classes": ["dog"]},
        {"name": "zoned", "source": "0", "zones": zones},
    ]
    run = Run.model_validate_json(json.dumps({"cameras": cameras}))
    detect, seen = make_detector(tmp_path, run), ByCamera()
    Loop([Feed(camera, Steady(fps=1e9), run, CLASSES) for camera in run.cameras], detect, [seen]).run(limit=5)
    first = {name: detections[0] for name, detections in seen.by_camera.items()}
    assert {name: list(d.class_id) for name, d in first.items()} == {
        "plain": [0, 0, 2],
        "sure": [0],
        "each": [0, 0],
        "dogs": [2],
        "zoned": [0, 0],
    }
    assert first["zoned"].zones == (("left",), ("left",)) and first["plain"].zones is None


def test_an_unknown_class_is_refused_with_the_camera_s_name(detector: Detector) -> None:
    with pytest.raises(ConfigError, match=r"^run\.cameras\.gate\.classes: no class 'dogs': did you mean 'dog'\?$"):
        feed(detector, Steady(), "gate", classes=["dogs"])


def test_the_observer_is_called_for_each_frame_and_each_update(detector: Detector) -> None:
    observer, stop = Recorder(), threading.Event()
    source = Steady(fps=20)
    threading.Timer(1.0, stop.set).start()
    Loop([feed(detector, source, "only")], detector, observer=observer, stop=stop).run()
    assert {name for name, _, _ in observer.frames} == {"only"}
    row = observer.frames[-1][2]
    assert row.shape == (9,) and row[7] >= row[1:7].sum() and row[8] >= 0
    status = observer.updates[-1][1][0]
    assert (status.name, status.source, status.width, status.height) == ("only", "0", 64, 48)
    assert status.frames > 5 and status.age_ns < 2e9
    gaps = np.diff([at for at, _ in observer.updates])
    assert len(gaps) >= 2 and np.median(gaps) < 0.5
    assert source.watched >= len(observer.updates)


def test_the_observer_is_called_while_all_cameras_are_away(detector: Detector) -> None:
    observer, stop = Recorder(), threading.Event()
    cameras = [Camera(name="gone", source="/dev/video77"), Camera(name="lost", source="78")]
    threading.Timer(1.2, stop.set).start()
    with Loop.of(cameras, detector, observer=observer, stop=stop) as loop:
        assert loop.run().frames == 0
    assert len(observer.updates) >= 3
    assert [(s.name, s.source, s.state) for s in observer.updates[-1][1]] == [
        ("gone", "/dev/video77", "away"),
        ("lost", "78", "away"),
    ]
    assert "no camera 77: /dev/video77 does not exist" in observer.updates[-1][1][0].why


def test_a_missing_camera_is_an_error_unless_there_are_several(detector: Detector) -> None:
    with pytest.raises(CameraUnavailable, match="no camera 77"):
        Loop.of([Camera(name="gone", source="77")], detector)
    with Loop.of([Camera(name="gone", source="77"), Camera(name="demo", source="demo")], detector) as loop:
        summary = loop.run(limit=3)
    assert summary.cameras["demo"].frames == 3 and summary.cameras["gone"].frames == 0


def test_after_a_failure_another_engine_continues_with_the_same_cameras(tmp_path: Path) -> None:
    fails, works = make_detector(tmp_path, fail_at=2), make_detector(tmp_path)
    cameras = [Camera(name="belt", source="demo")]
    with Loop.of(cameras, fails) as loop:
        source = loop.feeds[0].source
        with pytest.raises(BuildError, match="inference 2 failed"):
            loop.run()
        loop.replace(cameras, works)
        summary = loop.run(limit=2)
        assert loop.feeds[0].source is source
    assert summary.frames == 4


def test_cameras_and_detector_are_replaced_while_it_runs(tmp_path: Path, detector: Detector) -> None:
    seen, stop = ByCamera(), threading.Event()
    before = [Camera(name="kept", source="demo:1"), Camera(name="leaves", source="demo:2")]
    other = make_detector(tmp_path)
    with Loop.of(before, detector, [seen], stop=stop) as loop:
        kept, leaves = (feed.source for feed in loop.feeds)
        runs = threading.Thread(target=loop.run, daemon=True)
        runs.start()
        until(lambda: len(seen.frames()) == 2)
        loop.replace([Camera(name="comes", source="demo:3"), Camera(name="kept", source="demo:1", conf=0.85)], other)
        detector.close()  # no longer in use
        assert leaves.poll() is None and loop.feeds[1].source is kept
        until(lambda: "comes" in seen.frames() and len(seen.by_camera["kept"][-1]) == 1)
        stop.set()
        runs.join()
        assert loop.feeds[1].status.frames == len(seen.by_camera["kept"])
    assert len(seen.by_camera["kept"][0]) == 3 and len(seen.by_camera["kept"][-1]) == 1


def test_an_invalid_change_changes_nothing(detector: Detector) -> None:
    with Loop.of([Camera(name="kept", source="demo")], detector) as loop:
        feeds = list(loop.feeds)
        with pytest.raises(ConfigError, match="no class 'gate'"):
            loop.replace([Camera(name="kept", source="demo", classes=("gate",))], detector)
        assert loop.feeds == feeds
        assert loop.run(limit=1).frames == 1


def hang() -> object:
    time.sleep(3600)
    raise AssertionError


def test_cameras_that_hang_while_opening_do_not_delay_the_end(detector: Detector) -> None:
    stop, run = threading.Event(), Run()
    sources = [LiveSource(f"cam-{n}", IsolatedOpener(hang, f"cam-{n}"), patient=True) for n in range(8)]  # type: ignore[arg-type]
    feeds = [Feed(Camera(name=f"cam-{n}", source="0"), source, run, CLASSES) for n, source in enumerate(sources)]
    threading.Timer(0.5, stop.set).start()
    with Loop(feeds, detector, stop=stop) as loop:
        assert loop.run().frames == 0
        started = time.monotonic()
    assert time.monotonic() - started < 15


def until(condition: object) -> None:
    end = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited a minute"
        time.sleep(0.01)


def test_a_paused_camera_stays_open_and_others_continue(detector: Detector) -> None:
    observer, sources = Recorder(), {name: Steady(fps=1e9) for name in "ab"}
    loop = Loop([feed(detector, source, name) for name, source in sources.items()], detector, observer=observer)
    loop.run(limit=10)
    loop.paused["a"] = time.monotonic_ns()
    observer.frames.clear()
    loop._updated_ns = 0
    loop.run(limit=20)
    assert {name for name, _, _ in observer.frames} == {"b"}
    status = observer.updates[-1][1][0]
    assert (status.state, status.since_ns, sources["a"].closed) == ("paused", loop.paused["a"], 0)
    resumed = time.monotonic_ns()
    loop.paused.clear()
    loop._updated_ns = 0
    loop.run(limit=10)
    assert {name for name, _, _ in observer.frames[-10:]} == {"a", "b"}
    status = observer.updates[-1][1][0]
    assert status.state == "live" and status.since_ns >= resumed, "so that no result is expected from before"
