"""Cameras that are away: detected without a reader, waited for, frozen, waiting for a key frame."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from hand_camera import Camera, still, until

from edgesparse.stream.sources import capture_worker, live
from edgesparse.stream.sources.capture import WaitingForKeyFrame
from edgesparse.stream.sources.live import LiveSource


def test_a_stall_is_noticed_without_a_reader(camera: Camera, impatient: None, source: LiveSource) -> None:
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
    with LiveSource("camera", camera.open, patient=True) as source:
        assert source.poll() is None
        until(lambda: source.state == "away")
        assert source.why == "no camera 0" and source.fps == 0
        camera.absent = False
        camera.frames.put(4)
        frame = source.read()
        assert frame is not None and (int(frame.image[0, 0, 0]), source.fps, source.state) == (4, 30.0, "live")


def test_a_frame_wakes_the_loop(camera: Camera, source: LiveSource) -> None:
    source.awake = threading.Event()
    camera.frames.put(1)
    assert source.awake.wait(60)
    assert source.poll() is not None and source.poll() is None


class Frozen(Camera):
    """Sends `show` endlessly."""

    show = 1

    def __init__(self) -> None:
        super().__init__()
        self.frames = self  # type: ignore[assignment]

    def get(self) -> object:
        time.sleep(0.005)
        return self.show

    def put(self, value: object) -> None:
        self.show = False


def test_a_repeated_old_image_is_noticed_and_is_not_a_frame(caplog: pytest.LogCaptureFixture) -> None:
    camera = Frozen()
    with LiveSource("camera", camera.open, frozen=0.3) as source:
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


def test_a_still_image_is_allowed_without_a_limit() -> None:
    camera = Frozen()
    with LiveSource("camera", camera.open) as source:
        time.sleep(0.5)
        assert source.state == "live" and camera.openings == 1
        camera.show = False


def test_a_change_of_size_is_logged(camera: Camera, source: LiveSource, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgesparse.stream")
    for size in (16, 32, 32):
        camera.frames.put(still(1, size))
        source.read()
    assert caplog.messages == ["camera: frames are now 32x32"]


def test_an_unexpected_exception_does_not_end_a_patient_source(camera: Camera) -> None:
    with LiveSource("camera", camera.open, patient=True) as source:
        camera.frames.put(ZeroDivisionError("a bug at rtsp://user:secret@host/x"))
        until(lambda: source.state == "away")
        assert source.why.startswith("capture failed: ZeroDivisionError") and "secret" not in source.why
        camera.frames.put(5)
        frame = source.read()
        assert frame is not None and int(frame.image[0, 0, 0]) == 5


def test_waiting_for_a_key_frame_is_a_state(
    camera: Camera, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_worker, "FIRST_FRAME_LIMIT", 0.2)
    caplog.set_level(logging.INFO, "edgesparse.stream")
    with LiveSource("camera", camera.open, patient=True) as source:
        for _ in range(10):  # longer than a first frame may take, since data is arriving
            camera.frames.put(WaitingForKeyFrame())
            time.sleep(0.05)
            source.watch()
        until(lambda: source.state == "waiting")
        assert source.why == "waiting for a key frame" and source.poll() is None and camera.openings == 1
        camera.frames.put(3)
        until(lambda: source.state == "live")
        assert (source.why, source.reopened) == ("", 0)
    assert caplog.messages == ["camera is waiting for a key frame"]


def test_a_camera_that_is_back_may_wait_for_a_key_frame_too(camera: Camera, source: LiveSource) -> None:
    camera.frames.put(1)
    source.read()
    camera.frames.put(False)
    camera.frames.put(WaitingForKeyFrame())
    until(lambda: source.state == "waiting")
    camera.frames.put(3)
    until(lambda: source.state == "live")
    assert source.reopened == 1


def test_a_key_frame_is_not_awaited_forever(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEY_FRAME_SECONDS", 0.2)
    with LiveSource("camera", camera.open, patient=True) as source:
        until(lambda: camera.frames.put(WaitingForKeyFrame()) or time.sleep(0.01) or camera.openings > 1)
        assert source.why in ("no key frame for 0 s", "waiting for a key frame")
