"""Several batches in flight: their order, when each is collected, which frames stay valid, how the loop ends."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_camera import SIZE, Camera, still, until
from hypothesis import given
from hypothesis import strategies as st
from loops import (
    Collect,
    Levels,
    MemoryPeaks,
    black_frames,
    loop_of,
    make_detector,
    make_images,
    make_video,
    record_calls,
)

from edgesparse import config
from edgesparse.errors import BuildError, MemoryBudgetExceeded, SinkError, SourceError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.cameras import CameraStatus, Feed
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.in_flight import InFlight
from edgesparse.stream.pipeline import Loop, run
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sources.frame_buffers import FrameBuffers
from edgesparse.stream.sources.live import LiveSource
from edgesparse.stream.sources.memory import MemorySource
from edgesparse.stream.sources.open import open_source


@pytest.mark.parametrize(
    ("slots", "calls"),
    [(0, "S0 C0 S1 C1 S2 C2 S3 C3"), (2, "S0 S1 C0 S2 C1 S3 C2 C3"), (3, "S0 S1 S2 C0 S3 C1 C2 C3")],
)
def test_a_waiting_frame_is_submitted_before_the_oldest_batch_is_collected(
    tmp_path: Path, slots: int, calls: str
) -> None:
    detector, sink = make_detector(tmp_path, slots=slots), Collect()
    recorded = record_calls(detector)
    assert run(black_frames(), detector, [sink], limit=4).frames == 4
    assert " ".join(recorded) == calls and sink.indices == [0, 1, 2, 3]


@pytest.mark.parametrize("slots", [2, 3])
def test_results_are_delivered_while_every_slot_is_busy(tmp_path: Path, slots: int) -> None:
    class Submitted(Collect):
        def write(self, frame: Frame, detections: Detections) -> None:
            super().write(frame, detections)
            busy.append(detector.in_flight)

    busy, detector = list[int](), make_detector(tmp_path, slots=slots)
    run(black_frames(), detector, [Submitted()], limit=6)
    assert busy == [slots] * (6 - slots) + list(range(slots))[::-1]


def test_one_batch_at_a_time_on_request_or_if_the_source_lends_one_frame(tmp_path: Path) -> None:
    class Plain(MemorySource):
        def lend(self, most: int, memory: Any) -> None:
            pass

    detector = make_detector(tmp_path, slots=2)
    calls = record_calls(detector)
    run(black_frames(), detector, limit=2, depth=1)
    run(Plain([np.zeros((48, 64, 3), np.uint8)], "plain"), detector, limit=2)
    assert " ".join(calls) == "S0 C0 S1 C1 S2 C2 S3 C3"


def test_without_a_waiting_frame_the_batch_is_collected_immediately(
    tmp_path: Path, camera: Camera, source: LiveSource
) -> None:
    detector, stop, levels = make_detector(tmp_path, slots=2), threading.Event(), Levels()
    loop = loop_of(source, detector, [levels], stop=stop)
    runs = threading.Thread(target=loop.run)
    runs.start()
    for level in range(5):
        camera.frames.put(level)
        until(lambda level=level: len(levels.levels) == level + 1)  # type: ignore[misc]
    stop.set()
    runs.join()
    assert levels.levels == [0, 1, 2, 3, 4]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_buffers_leave_the_frames_that_were_read_last_alone(steps: list[bool], lends: int) -> None:
    """True publishes an image with the next level, False takes one if available."""
    buffers, published, images = FrameBuffers(), 0, set()
    buffers.move(lends, lambda shape: still(0))
    held: list[Frame] = []
    for publish in steps:
        if publish:
            image = buffers.spare if buffers.spare is not None else still(0)
            images.add(id(image))
            image[:] = published
            buffers.publish(image, published, published)
            published += 1
        elif buffers.fresh:
            held = [*held, buffers.take("camera")][-lends:]
            assert held[-1].index == published - 1
        assert all((frame.image == frame.index).all() for frame in held)
    assert len(images) <= 2 + lends


@pytest.mark.parametrize("slots", [2, 3])
def test_a_camera_never_writes_into_a_frame_in_flight(
    tmp_path: Path, camera: Camera, source: LiveSource, slots: int
) -> None:
    """The null backend detects this, unlike a GPU."""
    detector, stop = make_detector(tmp_path, slots=slots, seconds=0.002), threading.Event()
    levels = Levels(detector)
    loop = loop_of(source, detector, [levels], stop=stop)
    runs = threading.Thread(target=loop.run)
    runs.start()
    for number in range(400):
        camera.frames.put(number % 256)
        time.sleep(0.0005)
    until(camera.frames.empty)
    stop.set()
    runs.join()
    assert detector.in_flight == 0 and len(levels.levels) > 50
    assert max(levels.busy) > 0, "no batch was in the engine while results were delivered"


def test_a_frame_that_is_overwritten_in_flight_is_noticed(tmp_path: Path) -> None:
    class Careless(MemorySource):
        def read(self) -> Frame:
            frame = super().read()
            frame.image[:] = frame.index
            return frame

    with pytest.raises(BuildError, match="a frame has changed while its batch was in flight"):
        run(Careless([np.zeros((48, 64, 3), np.uint8)], "careless"), make_detector(tmp_path, slots=2), limit=3)


def test_frames_are_in_the_detector_s_memory(tmp_path: Path, camera: Camera, source: LiveSource) -> None:
    class Kept(Sink):
        def write(self, frame: Frame, detections: Detections) -> None:
            addresses.append(frame.image.ctypes.data)

        def close(self) -> None:
            pass

    detector, images, addresses = make_detector(tmp_path, slots=2), list[Image](), list[int]()

    def buffer(shape: tuple[int, ...]) -> Image:
        images.append(np.zeros(shape, np.uint8))
        return images[-1]

    for level in range(3):  # before the loop exists they are in ordinary memory
        camera.frames.put(level)
    until(lambda: source.dropped == 2)
    detector.runner.frame_buffer = buffer  # type: ignore[method-assign]
    loop = loop_of(source, detector, [Kept()])
    for level in range(60):
        camera.frames.put(level)
        loop.run(limit=1)
    assert set(addresses) == {image.ctypes.data for image in images[-len(set(addresses)) :]} and len(images) <= 5


def test_without_page_locked_memory_it_continues(
    tmp_path: Path, camera: Camera, source: LiveSource, caplog: pytest.LogCaptureFixture
) -> None:
    def none(shape: tuple[int, ...]) -> Image:
        raise MemoryBudgetExceeded("a frame for model.plan: the GPU has no memory left")

    detector = make_detector(tmp_path, slots=2)
    detector.runner.frame_buffer = none  # type: ignore[method-assign]
    camera.frames.put(3)
    levels = Levels()
    with caplog.at_level(logging.WARNING, "edgesparse.stream"):
        loop_of(source, detector, [levels]).run(limit=1)
    assert levels.levels == [3]
    assert "frames are copied by the CPU: a frame for model.plan: the GPU has no memory left" in caplog.messages


def test_every_frame_of_files_is_delivered_in_order(tmp_path: Path) -> None:
    levels = Levels()
    with open_source(make_video(tmp_path, 20)) as source:
        summary = run(source, make_detector(tmp_path, slots=3), [levels])
    assert (summary.frames, summary.dropped, summary.ended) == (20, 0, "end of source")
    assert np.abs(np.array(levels.levels) - 5 * np.arange(20)).max() <= 3
    sink = Collect()
    with open_source(make_images(tmp_path, 5)) as source:
        assert run(source, make_detector(tmp_path, slots=2), [sink]).ended == "end of source"
    assert sink.indices == [0, 1, 2, 3, 4]


def test_each_frame_gets_its_own_detections(tmp_path: Path) -> None:
    class Own(Sink):
        def __init__(self) -> None:
            self.boxes: list[tuple[int, list[float]]] = []

        def write(self, frame: Frame, detections: Detections) -> None:
            self.boxes.append((frame.index, detections.xyxy[:1].ravel().tolist()))

        def close(self) -> None:
            pass

    detector, own = make_detector(tmp_path, slots=2), Own()
    sizes = [(48, 64), (480, 640), (96, 128)]
    images: list[Image] = [np.zeros((*size, 3), np.uint8) for size in sizes]
    run(MemorySource(images, "memory"), detector, [own], limit=6)
    alone = [detector(image).xyxy[0].tolist() for image in images]
    assert own.boxes == [(i, alone[i % 3]) for i in range(6)]


def test_nothing_of_a_frames_size_is_allocated_in_flight(tmp_path: Path) -> None:
    """A frame is 921 kB here."""
    path = make_video(tmp_path, 60, 480, 640)
    with open_source(path) as source, MemoryPeaks() as peaks:
        assert run(source, make_detector(tmp_path, slots=2), [peaks]).frames == 60
    assert 0 < peaks.most < 100_000


def test_frames_of_a_camera_are_not_allocated_in_flight(tmp_path: Path, camera: Camera, source: LiveSource) -> None:
    detector = make_detector(tmp_path, slots=2)
    with MemoryPeaks() as peaks:
        loop = loop_of(source, detector, [peaks])
        for level in range(200):
            camera.frames.put(level)
            loop.run(limit=1)
    assert 0 < peaks.most < SIZE * SIZE * 3


def test_no_frame_beyond_the_limit_is_taken(tmp_path: Path) -> None:
    detector, source = make_detector(tmp_path, slots=3), black_frames()
    loop = loop_of(source, detector)
    for limit in (1, 2, 5):
        assert loop.run(limit=limit).ended == "limit" and detector.in_flight == 0
    assert source.read().index == 8


def test_the_rest_is_dropped_when_a_sink_wants_no_more(tmp_path: Path) -> None:
    detector, first, second = make_detector(tmp_path, slots=2), Collect(stop=2), Collect()
    summary = run(black_frames(), detector, [first, second])
    assert (summary.frames, summary.ended, second.indices) == (2, "closed", [0, 1])
    assert detector.in_flight == 0


def test_what_is_in_flight_is_delivered_after_a_stop(tmp_path: Path) -> None:
    class Stops(Collect):
        def write(self, frame: Frame, detections: Detections) -> None:
            super().write(frame, detections)
            if frame.index == 5:
                stop.set()

    detector, stop, sink = make_detector(tmp_path, slots=3), threading.Event(), Stops()
    calls = record_calls(detector)
    assert loop_of(black_frames(), detector, [sink], stop=stop).run().ended == "stopped"
    assert sink.indices == list(range(9)) and calls.count("S9") == 0 and detector.in_flight == 0


def test_what_is_in_flight_is_delivered_after_ctrl_c(tmp_path: Path) -> None:
    class Pressed(Collect):
        def write(self, frame: Frame, detections: Detections) -> None:
            super().write(frame, detections)
            if frame.index == 2:
                signal.raise_signal(signal.SIGINT)

    detector, first, second = make_detector(tmp_path, slots=2), Pressed(), Collect()
    summary = run(black_frames(), detector, [first, second])
    assert (summary.ended, summary.frames, detector.in_flight) == ("interrupted", 5, 0)
    assert first.indices == second.indices == [0, 1, 2, 3, 4]


def test_frames_from_before_an_error_of_the_source_are_delivered(tmp_path: Path) -> None:
    class Breaks(MemorySource):
        def read(self) -> Frame:
            frame = super().read()
            if frame.index == 3:
                raise SourceError("the cable was pulled")
            return frame

    detector, sink = make_detector(tmp_path, slots=3), Collect()
    with pytest.raises(SourceError, match="the cable was pulled"):
        run(Breaks([np.zeros((48, 64, 3), np.uint8)], "breaks"), detector, [sink])
    assert sink.indices == [0, 1, 2] and detector.in_flight == 0


def test_after_a_failure_in_flight_it_continues_with_the_batches_behind(tmp_path: Path) -> None:
    """One batch is lost, not those after it: the service relies on this after a single failure."""
    detector, sink = make_detector(tmp_path, slots=2), Collect()
    source, collect, failures = black_frames(), detector.collect, iter([False, True, False, False, False])

    def fails() -> Any:
        detections = collect()
        if next(failures):
            raise BuildError("the engine failed")
        return detections

    detector.collect = fails  # type: ignore[method-assign]
    loop = loop_of(source, detector, [sink])
    with pytest.raises(BuildError, match="the engine failed"):
        loop.run()
    assert loop.run(limit=3).frames == 4
    assert sink.indices == [0, 2, 3, 4]


def test_an_engine_that_failed_in_flight_is_replaced(tmp_path: Path) -> None:
    fails, cameras, sink = (
        make_detector(tmp_path, slots=2, fail_at=2),
        [config.Camera(name="belt", source="demo")],
        Collect(),
    )
    with Loop.of(cameras, fails, [sink]) as loop:
        source = loop.feeds[0].source
        until(lambda: bool(source.newest_ns))
        with pytest.raises(BuildError, match="inference 2 failed"):
            loop.run()
        fails.close()  # as the service does, since the board may not have memory for both
        loop.replace(cameras, make_detector(tmp_path))
        assert loop.run(limit=2).frames == 4 and loop.feeds[0].source is source
    assert sink.indices == sorted(sink.indices) and len(sink.indices) == 4


def test_no_frame_is_lost_when_the_engine_is_replaced(tmp_path: Path) -> None:
    old, new, stop, sink = (
        make_detector(tmp_path, slots=3),
        make_detector(tmp_path, slots=2),
        threading.Event(),
        Collect(),
    )
    cameras = [config.Camera(name="belt", source=str(make_video(tmp_path, 200)))]
    before, after = record_calls(old), record_calls(new)

    class Slow(Collect):
        def write(self, frame: Frame, detections: Detections) -> None:
            time.sleep(0.002)

    with Loop.of(cameras, old, [sink, Slow()], stop=stop) as loop:
        runs = threading.Thread(target=loop.run)
        runs.start()
        until(lambda: len(sink.indices) > 5)
        loop.replace(cameras, new)
        assert old.in_flight == 0
        old.close()
        runs.join(60)
        assert not runs.is_alive()
    assert sink.indices == list(range(200))
    assert len(before) + len(after) == 2 * 200 and after


def test_closing_the_loop_leaves_the_detector_free(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, slots=2)
    with loop_of(black_frames(), detector, [Collect(fail=0)]) as loop:
        with pytest.raises(SinkError, match="the disk is full"):
            loop.run()
        assert detector.in_flight == 2
    assert len(detector(np.zeros((48, 64, 3), np.uint8))) == 3


def test_nothing_is_in_flight_while_the_observer_pauses_the_loop(tmp_path: Path) -> None:
    class Pauses:
        def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: np.ndarray) -> float:
            ages.append(int(row[7]) / 1e9)
            return 0.1

        def update(self, cameras: Any) -> None:
            pass

    class Now(MemorySource):
        live = True

    ages: list[float] = []
    started = time.monotonic()
    source = Now([np.zeros((48, 64, 3), np.uint8)], "now")
    loop_of(source, make_detector(tmp_path, slots=2), observer=Pauses()).run(limit=6)
    assert time.monotonic() - started > 0.15 and max(ages) < 0.09, "a frame was taken before the pause"


def test_no_batch_is_submitted_without_room(tmp_path: Path) -> None:
    detector, source = make_detector(tmp_path, slots=2), black_frames()
    feed = Feed(config.Camera(name="belt", source="0"), source, detector.run, detector.spec.classes)
    in_flight = InFlight(detector, [feed])
    for number in range(2):
        assert not in_flight.full and len(in_flight) == in_flight.frames == number
        in_flight.submit([(feed, source.read())], 0)
    assert in_flight.full and in_flight.collected() is None
    with pytest.raises(RuntimeError, match="2 batches are in flight"):
        in_flight.submit([(feed, source.read())], 0)
    assert len(in_flight) == 2
    in_flight.collect()
    assert not in_flight.full and in_flight.frames == 2, "none can be submitted before the collected one's delivery"
    in_flight.submit([(feed, source.read())], 0)
    batch = in_flight.collected()
    assert batch is not None and [len(detections) for detections in batch.detections] == [3] and in_flight.full
    in_flight.drop()
    assert not in_flight and detector.in_flight == 0
