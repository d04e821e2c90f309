"""Cameras that are away: noticed without a reader, waited for, frozen, changed."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from hand_camera import Camera, still, until

from edgesparse.stream.sources.live import Live


def test_a_stall_is_noticed_without_a_reader(camera: Camera, impatient: None, source: Live) -> None:
    camera.frames.put(1)
    source.read()
    stall = threading.Event()
    camera.frames.put(stall)
    until(lambda: source.watch() or source.state == "away")
    assert source.why == "no frame in time" and source.since_ns <= time.monotonic_ns()
    camera.frames.put(2)
    until(lambda: source.state == "live")
    assert source.why == "" and source.newest_ns > source.since_ns - 1
    stall.set()


def test_a_patient_source_waits_for_its_camera(camera: Camera) -> None:
    camera.absent = True
    with Live("camera", camera.open, patient=True) as source:
        assert source.poll() is None
        until(lambda: source.state == "away")
        assert source.why == "no camera 0" and source.fps == 0
        camera.absent = False
        camera.frames.put(4)
        frame = source.read()
        assert frame is not None and (int(frame.image[0, 0, 0]), source.fps, source.state) == (4, 30.0, "live")


def test_the_loop_is_woken_by_a_frame(camera: Camera, source: Live) -> None:
    source.awake = threading.Event()
    camera.frames.put(1)
    assert source.awake.wait(10)
    assert source.poll() is not None and source.poll() is None


class Frozen(Camera):
    """Sends what `show` says, without end."""

    show = 1

    def __init__(self) -> None:
        super().__init__()
        self.frames = self  # type: ignore[assignment]

    def get(self) -> object:
        time.sleep(0.005)
        return self.show

    def put(self, value: object) -> None:
        self.show = False


def test_an_old_image_again_and_again_is_noticed_and_is_no_frame(caplog: pytest.LogCaptureFixture) -> None:
    camera = Frozen()
    with Live("camera", camera.open, frozen=0.3) as source:
        until(lambda: source.state == "away")
        assert source.why.startswith("the same image for 0.")
        openings = camera.openings
        while source.poll() is not None:
            pass
        until(lambda: camera.openings > openings + 1)
        assert source.poll() is None and source.state == "away"
        camera.show = 9
        until(lambda: source.state == "live")
        frame = source.read()
        assert frame is not None and (frame.image == 9).all()
        camera.show = False


def test_an_image_may_stand_still_where_nobody_minds() -> None:
    camera = Frozen()
    with Live("camera", camera.open) as source:
        time.sleep(0.5)
        assert source.state == "live" and camera.openings == 1
        camera.show = False


def test_a_change_of_size_is_said(camera: Camera, source: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgesparse.stream")
    for size in (16, 32, 32):
        camera.frames.put(still(1, size))
        source.read()
    assert caplog.messages == ["camera: frames are now 32x32"]


def test_an_error_of_our_own_ends_no_patient_source(camera: Camera) -> None:
    with Live("camera", camera.open, patient=True) as source:
        camera.frames.put(ZeroDivisionError("a bug at rtsp://user:secret@host/x"))
        until(lambda: source.state == "away")
        assert source.why.startswith("capture failed: ZeroDivisionError") and "secret" not in source.why
        camera.frames.put(5)
        frame = source.read()
        assert frame is not None and int(frame.image[0, 0, 0]) == 5
