"""Several batches in flight: their order, when one is collected, whose frames are left alone, how it ends."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hand_camera import SIZE, Camera, still, until
from hypothesis import given
from hypothesis import strategies as st
from test_pipeline import Memories, Seen, detector, frames, images

from edgesparse import config
from edgesparse.errors import BuildError, MemoryBudgetExceeded, SinkError, SourceError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import CameraStatus, Feed
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.in_flight import InFlight
from edgesparse.stream.pipeline import Loop, run
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sources.frame_buffers import FrameBuffers
from edgesparse.stream.sources.live import LiveSource
from edgesparse.stream.sources.memory import MemorySource
from edgesparse.stream.sources.open import open_source


def noted(detect: Detector) -> list[str]:
    """What the loop asks of the detector, from now on: S and C, by turns of each."""
    said: list[str] = []

    def note(letter: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            said.append(f"{letter}{sum(one[0] == letter for one in said)}")
            return method(*given)

        return called

    detect.submit = note("S", detect.submit)  # type: ignore[method-assign]
    detect.collect = note("C", detect.collect)  # type: ignore[method-assign]
    return said


def loop_of(source: Any, detect: Detector, sinks: Any = (), **more: Any) -> Loop:
    feed = Feed(config.Camera(name="belt", source="0"), source, detect.run, detect.spec.classes)
    return Loop([feed], detect, sinks, **more)


class Levels(Sink):
    """Frames whose every pixel is the same, and which; how many batches were in the engine meanwhile."""

    def __init__(self, detect: Detector | None = None) -> None:
        self.seen, self.busy, self._detector = list[int](), list[int](), detect

    def write(self, frame: Frame, detections: Detections) -> None:
        assert (frame.image == frame.image[0, 0]).all()
        self.seen.append(int(frame.image[0, 0, 0]))
        self.busy.append(self._detector.in_flight if self._detector else 0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("slots", "asked"),
    [(0, "S0 C0 S1 C1 S2 C2 S3 C3"), (2, "S0 S1 C0 S2 C1 S3 C2 C3"), (3, "S0 S1 S2 C0 S3 C1 C2 C3")],
)
def test_a_frame_that_waits_goes_in_before_the_oldest_comes_out(tmp_path: Path, slots: int, asked: str) -> None:
    detect, seen = detector(tmp_path, slots=slots), Seen()
    said = noted(detect)
    assert run(frames(), detect, [seen], limit=4).frames == 4
    assert " ".join(said) == asked and seen.indices == [0, 1, 2, 3]


def test_one_batch_at_a_time_where_that_is_asked_or_the_source_lends_no_more(tmp_path: Path) -> None:
    class Plain(MemorySource):
        def lend(self, most: int, memory: Any) -> None:
            pass

    detect = detector(tmp_path, slots=2)
    said = noted(detect)
    run(frames(), detect, limit=2, depth=1)
    run(Plain([np.zeros((48, 64, 3), np.uint8)], "plain"), detect, limit=2)
    assert " ".join(said) == "S0 C0 S1 C1 S2 C2 S3 C3"


def test_where_no_frame_waits_the_one_in_flight_comes_out_at_once(
    tmp_path: Path, camera: Camera, source: LiveSource
) -> None:
    detect, stop, levels = detector(tmp_path, slots=2), threading.Event(), Levels()
    loop = loop_of(source, detect, [levels], stop=stop)
    runs = threading.Thread(target=loop.run)
    runs.start()
    for level in range(5):
        camera.frames.put(level)
        until(lambda level=level: len(levels.seen) == level + 1)  # type: ignore[misc]
    stop.set()
    runs.join()
    assert levels.seen == [0, 1, 2, 3, 4]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_slots_leave_the_newest_frames_that_were_read_alone(steps: list[bool], lends: int) -> None:
    """True publishes an image of the next level, False takes one, where there is one."""
    slots, published, made = FrameBuffers(), 0, set()
    slots.move(lends, lambda shape: still(0))
    held: list[Frame] = []
    for publish in steps:
        if publish:
            image = slots.spare if slots.spare is not None else still(0)
            made.add(id(image))
            image[:] = published
            slots.publish(image, published, published)
            published += 1
        elif slots.fresh:
            held = [*held, slots.take("camera")][-lends:]
            assert held[-1].index == published - 1
        assert all((frame.image == frame.index).all() for frame in held)
    assert len(made) <= 2 + lends


@pytest.mark.parametrize("slots", [2, 3])
def test_a_camera_never_writes_into_a_frame_in_flight(
    tmp_path: Path, camera: Camera, source: LiveSource, slots: int
) -> None:
    """The null backend notices, as a GPU would not."""
    detect, stop = detector(tmp_path, slots=slots, seconds=0.002), threading.Event()
    levels = Levels(detect)
    loop = loop_of(source, detect, [levels], stop=stop)
    runs = threading.Thread(target=loop.run)
    runs.start()
    for number in range(400):
        camera.frames.put(number % 256)
        time.sleep(0.0005)
    until(camera.frames.empty)
    stop.set()
    runs.join()
    assert detect.in_flight == 0 and len(levels.seen) > 50
    assert max(levels.busy) > 0, "none was in the engine while one was written"


def test_a_frame_that_is_overwritten_in_flight_is_noticed(tmp_path: Path) -> None:
    class Careless(MemorySource):
        def read(self) -> Frame:
            frame = super().read()
            frame.image[:] = frame.index
            return frame

    with pytest.raises(BuildError, match="a frame has changed while its batch was in flight"):
        run(Careless([np.zeros((48, 64, 3), np.uint8)], "careless"), detector(tmp_path, slots=2), limit=3)


def test_frames_lie_in_the_detectors_memory(tmp_path: Path, camera: Camera, source: LiveSource) -> None:
    class Kept(Sink):
        def write(self, frame: Frame, detections: Detections) -> None:
            addresses.append(frame.image.ctypes.data)

        def close(self) -> None:
            pass

    detect, made, addresses = detector(tmp_path, slots=2), list[Image](), list[int]()

    def buffer(shape: tuple[int, ...]) -> Image:
        made.append(np.zeros(shape, np.uint8))
        return made[-1]

    for level in range(3):  # before there is a loop they lie anywhere
        camera.frames.put(level)
    until(lambda: source.dropped == 2)
    detect.runner.frame_buffer = buffer  # type: ignore[method-assign]
    loop = loop_of(source, detect, [Kept()])
    for level in range(60):
        camera.frames.put(level)
        loop.run(limit=1)
    assert set(addresses) == {image.ctypes.data for image in made[-len(set(addresses)) :]} and len(made) <= 5


def test_without_page_locked_memory_it_goes_on(
    tmp_path: Path, camera: Camera, source: LiveSource, caplog: pytest.LogCaptureFixture
) -> None:
    def none(shape: tuple[int, ...]) -> Image:
        raise MemoryBudgetExceeded("a frame for model.plan: the GPU has no memory left")

    detect = detector(tmp_path, slots=2)
    detect.runner.frame_buffer = none  # type: ignore[method-assign]
    camera.frames.put(3)
    levels = Levels()
    with caplog.at_level(logging.WARNING, "edgesparse.stream"):
        loop_of(source, detect, [levels]).run(limit=1)
    assert levels.seen == [3]
    assert "frames are copied by the CPU: a frame for model.plan: the GPU has no memory left" in caplog.messages


def video(folder: Path, count: int, height: int = 48, width: int = 64) -> Path:
    path = folder / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (width, height))
    for i in range(count):
        writer.write(np.full((height, width, 3), 5 * i % 256, np.uint8))
    writer.release()
    return path


def test_every_frame_of_files_in_order(tmp_path: Path) -> None:
    levels = Levels()
    with open_source(video(tmp_path, 20)) as source:
        summary = run(source, detector(tmp_path, slots=3), [levels])
    assert (summary.frames, summary.dropped, summary.ended) == (20, 0, "end of source")
    assert np.abs(np.array(levels.seen) - 5 * np.arange(20)).max() <= 3
    seen = Seen()
    with open_source(images(tmp_path, 5)) as source:
        assert run(source, detector(tmp_path, slots=2), [seen]).ended == "end of source"
    assert seen.indices == [0, 1, 2, 3, 4]


def test_each_frame_gets_its_own_detections(tmp_path: Path) -> None:
    class Own(Sink):
        def __init__(self) -> None:
            self.found: list[tuple[int, list[float]]] = []

        def write(self, frame: Frame, detections: Detections) -> None:
            self.found.append((frame.index, detections.xyxy[:1].ravel().tolist()))

        def close(self) -> None:
            pass

    detect, own = detector(tmp_path, slots=2), Own()
    sizes = [(48, 64), (480, 640), (96, 128)]
    images: list[Image] = [np.zeros((*size, 3), np.uint8) for size in sizes]
    run(MemorySource(images, "memory"), detect, [own], limit=6)
    alone = [detect(image).xyxy[0].tolist() for image in images]
    assert own.found == [(i, alone[i % 3]) for i in range(6)]


def test_nothing_of_a_frames_size_is_allocated_in_flight(tmp_path: Path) -> None:
    """A frame is 921 kB here."""
    path = video(tmp_path, 60, 480, 640)
    with open_source(path) as source, Memories() as memories:
        assert run(source, detector(tmp_path, slots=2), [memories]).frames == 60
    assert 0 < memories.most < 100_000


def test_a_cameras_frames_are_not_allocated_in_flight(tmp_path: Path, camera: Camera, source: LiveSource) -> None:
    detect = detector(tmp_path, slots=2)
    with Memories() as memories:
        loop = loop_of(source, detect, [memories])
        for level in range(200):
            camera.frames.put(level)
            loop.run(limit=1)
    assert 0 < memories.most < SIZE * SIZE * 3


def test_a_limit_takes_no_frame_too_many(tmp_path: Path) -> None:
    detect, source = detector(tmp_path, slots=3), frames()
    loop = loop_of(source, detect)
    for limit in (1, 2, 5):
        assert loop.run(limit=limit).ended == "limit" and detect.in_flight == 0
    assert source.read().index == 8


def test_when_a_sink_wants_no_more_the_rest_is_dropped(tmp_path: Path) -> None:
    detect, first, second = detector(tmp_path, slots=2), Seen(stop=2), Seen()
    summary = run(frames(), detect, [first, second])
    assert (summary.frames, summary.ended, second.indices) == (2, "closed", [0, 1])
    assert detect.in_flight == 0


def test_stop_hands_over_what_is_in_flight(tmp_path: Path) -> None:
    class Stops(Seen):
        def write(self, frame: Frame, detections: Detections) -> None:
            super().write(frame, detections)
            if frame.index == 5:
                stop.set()

    detect, stop, seen = detector(tmp_path, slots=3), threading.Event(), Stops()
    said = noted(detect)
    assert loop_of(frames(), detect, [seen], stop=stop).run().ended == "stopped"
    assert seen.indices == list(range(8)) and said.count("S8") == 0 and detect.in_flight == 0


def test_ctrl_c_hands_over_what_is_in_flight(tmp_path: Path) -> None:
    class Pressed(Seen):
        def write(self, frame: Frame, detections: Detections) -> None:
            super().write(frame, detections)
            if frame.index == 2:
                signal.raise_signal(signal.SIGINT)

    detect, first, second = detector(tmp_path, slots=2), Pressed(), Seen()
    summary = run(frames(), detect, [first, second])
    assert (summary.ended, summary.frames, detect.in_flight) == ("interrupted", 4, 0)
    assert first.indices == second.indices == [0, 1, 2, 3]


def test_frames_from_before_an_error_of_the_source_reach_the_sinks(tmp_path: Path) -> None:
    class Breaks(MemorySource):
        def read(self) -> Frame:
            frame = super().read()
            if frame.index == 3:
                raise SourceError("the cable was pulled")
            return frame

    detect, seen = detector(tmp_path, slots=3), Seen()
    with pytest.raises(SourceError, match="the cable was pulled"):
        run(Breaks([np.zeros((48, 64, 3), np.uint8)], "breaks"), detect, [seen])
    assert seen.indices == [0, 1, 2] and detect.in_flight == 0


def test_after_a_failure_in_flight_it_goes_on_with_what_was_behind(tmp_path: Path) -> None:
    """One batch is lost, not those behind it: what the service does after a single failure."""
    detect, seen = detector(tmp_path, slots=2), Seen()
    source, collect, failures = frames(), detect.collect, iter([False, True, False, False, False])

    def fails() -> Any:
        found = collect()
        if next(failures):
            raise BuildError("the engine stumbles")
        return found

    detect.collect = fails  # type: ignore[method-assign]
    loop = loop_of(source, detect, [seen])
    with pytest.raises(BuildError, match="stumbles"):
        loop.run()
    assert loop.run(limit=3).frames == 4
    assert seen.indices == [0, 2, 3, 4]


def test_an_engine_that_failed_in_flight_gives_way_to_another(tmp_path: Path) -> None:
    fails, cameras, seen = detector(tmp_path, slots=2, fail_at=2), [config.Camera(name="belt", source="demo")], Seen()
    with Loop.of(cameras, fails, [seen]) as loop:
        source = loop.feeds[0].source
        until(lambda: bool(source.newest_ns))
        with pytest.raises(BuildError, match="inference 2 failed"):
            loop.run()
        fails.close()  # as the service does: the board may not hold both
        loop.replace(cameras, detector(tmp_path))
        assert loop.run(limit=2).frames == 4 and loop.feeds[0].source is source
    assert seen.indices == sorted(seen.indices) and len(seen.indices) == 4


def test_engines_change_between_frames_and_none_is_lost(tmp_path: Path) -> None:
    old, new, stop, seen = detector(tmp_path, slots=3), detector(tmp_path, slots=2), threading.Event(), Seen()
    cameras = [config.Camera(name="belt", source=str(video(tmp_path, 200)))]
    before, after = noted(old), noted(new)

    class Slow(Seen):
        def write(self, frame: Frame, detections: Detections) -> None:
            time.sleep(0.002)

    with Loop.of(cameras, old, [seen, Slow()], stop=stop) as loop:
        runs = threading.Thread(target=loop.run)
        runs.start()
        until(lambda: len(seen.indices) > 5)
        loop.replace(cameras, new)
        assert old.in_flight == 0
        old.close()
        runs.join(20)
        assert not runs.is_alive()
    assert seen.indices == list(range(200))
    assert len(before) + len(after) == 2 * 200 and after


def test_a_loop_that_is_closed_leaves_the_detector_free(tmp_path: Path) -> None:
    detect = detector(tmp_path, slots=2)
    with loop_of(frames(), detect, [Seen(fail=0)]) as loop:
        with pytest.raises(SinkError, match="the disk is full"):
            loop.run()
        assert detect.in_flight == 1
    assert len(detect(np.zeros((48, 64, 3), np.uint8))) == 3


def test_nothing_is_in_flight_while_the_observer_wants_rest(tmp_path: Path) -> None:
    class Rests:
        def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: np.ndarray) -> float:
            ages.append(int(row[7]) / 1e9)
            return 0.1

        def update(self, cameras: Any) -> None:
            pass

    class Now(MemorySource):
        live = True

    ages: list[float] = []
    begun = time.monotonic()
    source = Now([np.zeros((48, 64, 3), np.uint8)], "now")
    loop_of(source, detector(tmp_path, slots=2), observer=Rests()).run(limit=6)
    assert time.monotonic() - begun > 0.15 and max(ages) < 0.09, "a frame was taken before the rest"


def test_no_batch_is_submitted_that_has_no_room(tmp_path: Path) -> None:
    detect, source = detector(tmp_path, slots=2), frames()
    feed = Feed(config.Camera(name="belt", source="0"), source, detect.run, detect.spec.classes)
    in_flight = InFlight(detect, [feed])
    for number in range(2):
        assert not in_flight.full and len(in_flight) == in_flight.frames == number
        in_flight.submit([(feed, source.read())], 0)
    assert in_flight.full and in_flight.collected() is None
    with pytest.raises(RuntimeError, match="2 batches are in flight"):
        in_flight.submit([(feed, source.read())], 0)
    assert len(in_flight) == 2
    in_flight.collect()
    assert in_flight.full and in_flight.frames == 2
    batch = in_flight.collected()
    assert batch is not None and [len(detections) for detections in batch.detections] == [3] and not in_flight.full
    in_flight.drop()
    assert not in_flight and detect.in_flight == 0
