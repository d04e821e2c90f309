"""Live sources, with cameras that fail as real ones do."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hand_camera import SIZE, Camera, still, until
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.stream.frames import Frame
from edgesparse.stream.sources import capture_worker, live
from edgesparse.stream.sources.frame_buffers import FrameBuffers
from edgesparse.stream.sources.live import LiveSource
from edgesparse.supervised import thread_states


@given(st.lists(st.booleans()))
def test_buffers_give_the_newest_frame_and_leave_the_one_being_read_alone(steps: list[bool]) -> None:
    """True publishes an image with the next level, False takes one if available."""
    buffers, published, taken, dropped = FrameBuffers(), 0, 0, 0
    held: Frame | None = None
    for publish in steps:
        if publish:
            image = buffers.spare if buffers.spare is not None else still(0)
            image[:] = published % 256
            dropped += buffers.publish(image, published, published)
            published += 1
        elif buffers.fresh:
            held = buffers.take("camera")
            taken += 1
            assert held.index == published - 1
        if held is not None:
            assert (held.image == held.index % 256).all()
    assert published == taken + dropped + buffers.fresh


def test_three_buffers_serve_any_number_of_frames() -> None:
    buffers, seen = FrameBuffers(), set()
    for index in range(50):
        spare = buffers.spare if buffers.spare is not None else still(0)
        seen.add(id(spare))
        buffers.publish(spare, 0, index)
        if index % 3 == 0:
            buffers.take("camera")
    assert len(seen) == 3


def test_the_newest_frame_wins(camera: Camera, source: LiveSource) -> None:
    for level in range(5):
        camera.frames.put(level)
    until(lambda: source.dropped == 4)
    before = time.monotonic_ns()
    frame = source.read()
    assert frame is not None
    assert (frame.index, frame.name, int(frame.image[0, 0, 0]), source.fps) == (4, "camera", 4, 30.0)
    assert frame.time_ns < before
    camera.frames.put(9)
    after = source.read()
    assert after is not None and (after.index, int(after.image[0, 0, 0])) == (5, 9)
    assert after.time_ns > frame.time_ns


def test_a_frame_does_not_change_before_the_next_read(camera: Camera, source: LiveSource) -> None:
    camera.frames.put(1)
    frame = source.read()
    assert frame is not None
    for level in range(2, 30):
        camera.frames.put(level)
    until(lambda: source.dropped == 27)
    assert (frame.image == 1).all()


def test_frames_are_captured_into_reused_images(camera: Camera, source: LiveSource) -> None:
    def captured(level: int) -> Frame:
        camera.frames.put(level)
        frame = source.read()
        assert frame is not None
        return frame

    seen = {id(captured(level).image) for level in range(8)}
    assert len(seen) <= 3
    tracemalloc.start()
    try:
        assert {id(captured(level).image) for level in range(200)} == seen
        assert tracemalloc.get_traced_memory()[1] < SIZE * SIZE * 3
    finally:
        tracemalloc.stop()


def test_frames_may_change_size(camera: Camera, source: LiveSource) -> None:
    for image in (still(1), still(2, 16), still(3, 16), still(4, 4)):
        camera.frames.put(image)
        frame = source.read()
        assert frame is not None and frame.image.shape == image.shape
        assert (frame.image == image).all()


def test_a_missing_camera_is_an_error_immediately(camera: Camera) -> None:
    camera.absent = True
    with pytest.raises(CameraUnavailable):
        LiveSource("camera", camera.open)
    assert camera.openings == 1


def test_a_camera_that_disappears_is_reopened_until_it_is_back(
    camera: Camera, source: LiveSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgesparse.stream")
    camera.frames.put(1)
    source.read()
    camera.absent = True
    camera.frames.put(False)
    until(lambda: camera.openings >= 5)
    assert caplog.messages == ["camera delivers no frames (the stream ended); reopening it until it does"]
    assert source.reopened == 0
    camera.absent = False
    camera.frames.put(2)
    frame = source.read()
    assert frame is not None and (frame.index, int(frame.image[0, 0, 0])) == (1, 2)
    assert source.reopened == 1
    assert [message.partition(" after ")[0] for message in caplog.messages[1:]] == ["camera is back"]


def test_pauses_between_attempts_grow(camera: Camera, source: LiveSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_worker, "PAUSE_LONGEST", 0.08)
    pauses = []
    pause = capture_worker.CaptureWorker.pause

    def record(worker: capture_worker.CaptureWorker, seconds: float) -> None:
        pauses.append(seconds)
        pause(worker, seconds)

    monkeypatch.setattr(capture_worker.CaptureWorker, "pause", record)
    camera.absent = True
    camera.frames.put(False)
    until(lambda: len(pauses) >= 6)
    assert pauses[:6] == [0.01, 0.02, 0.04, 0.08, 0.08, 0.08]
    camera.absent = False
    camera.frames.put(1)
    source.read()
    pauses.clear()
    camera.frames.put(False)
    until(lambda: len(pauses) >= 1)
    assert pauses[0] == 0.01


def test_a_camera_that_stalls_is_left_to_itself_and_opened_again(
    camera: Camera, impatient: None, source: LiveSource
) -> None:
    stall = threading.Event()
    for _ in range(6):  # until there are three images
        camera.frames.put(1)
        source.read()
    camera.frames.put(stall)
    threading.Timer(0.4, camera.frames.put, [8]).start()
    frame = source.read()
    assert frame is not None and int(frame.image[0, 0, 0]) == 8
    assert (camera.openings, camera.released, source.reopened) == (2, 0, 1)
    stall.set()
    until(lambda: camera.released == 1)
    assert (frame.image == 8).all(), "the stalled thread wrote into a frame that is in use"
    camera.frames.put(9)
    frame = source.read()
    assert frame is not None and (frame.index, int(frame.image[0, 0, 0])) == (7, 9)


def test_a_driver_that_never_returns_does_not_use_up_threads(
    camera: Camera, impatient: None, source: LiveSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera.frames.put(1)
    source.read()
    monkeypatch.setattr(capture_worker, "FIRST_FRAME_LIMIT", 0.2)
    reader = threading.Thread(target=source.read)
    reader.start()
    until(lambda: camera.openings == 1 + live.MOST_STUCK)
    until(lambda: any(thread.down for thread in thread_states()))
    assert camera.openings == 1 + live.MOST_STUCK
    assert "the driver returns from none of 4 attempts" in [thread.why for thread in thread_states()]
    source.close()
    reader.join(60)
    assert not reader.is_alive()


def test_frames_without_pixels_are_skipped_and_counted(camera: Camera, source: LiveSource) -> None:
    camera.frames.put(np.empty((0, 0, 3), np.uint8))
    camera.frames.put(3)
    frame = source.read()
    assert frame is not None and (frame.index, source.dropped) == (1, 1)


def test_a_stream_of_nothing_but_empty_frames_is_opened_again(
    camera: Camera, impatient: None, source: LiveSource
) -> None:
    camera.frames.put(1)
    source.read()
    while camera.openings == 1:
        camera.frames.put(np.empty((0, 0, 3), np.uint8))
        time.sleep(0.01)
    assert source.dropped > 0


def test_an_unexpected_exception_is_not_hidden(camera: Camera, source: LiveSource) -> None:
    camera.frames.put(ZeroDivisionError("a bug"))
    with pytest.raises(SourceError, match="camera: capture failed: a bug"):
        source.read()


def test_reopen_makes_a_new_connection(camera: Camera, source: LiveSource) -> None:
    camera.frames.put(1)
    source.read()
    source.reopen()
    until(lambda: camera.openings == 2)
    for _ in range(2):  # the first thread may still take one and drop it
        camera.frames.put(5)
    frame = source.read()
    assert frame is not None and (int(frame.image[0, 0, 0]), source.reopened) == (5, 1)


def test_close_ends_a_waiting_read(camera: Camera, source: LiveSource) -> None:
    frames: queue.Queue[Frame | None] = queue.Queue()
    reader = threading.Thread(target=lambda: frames.put(source.read()))
    reader.start()
    source.close()
    assert frames.get(timeout=60) is None
    reader.join()
    source.close()
    assert source.read() is None


def test_ctrl_c_ends_a_waiting_read(camera: Camera, source: LiveSource) -> None:
    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        source.read()


def test_everything_is_released(camera: Camera, source: LiveSource) -> None:
    camera.frames.put(1)
    source.read()
    camera.frames.put(False)
    until(lambda: camera.openings == 2)
    source.close()
    camera.frames.put(False)
    until(lambda: camera.released == camera.openings)


def test_python_may_end_while_a_camera_is_open() -> None:
    program = """
from edgesparse.stream.sources.open import open_source
source = open_source("demo")
print(source.read().index)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
