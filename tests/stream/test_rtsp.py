"""Cameras on the network, from a real RTSP server."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hand_camera import until
from rtsp import INSTALL, RtspServer

from edgesparse.stream.sources.open import open_source

pytestmark = pytest.mark.rtsp


def test_frames_arrive(rtsp_server: RtspServer, capfd: pytest.CaptureFixture[str]) -> None:
    with open_source(rtsp_server.url.replace("://", "://user:secret@")) as source:
        assert (source.name, source.live, source.total) == (rtsp_server.url, True, None)
        assert source.fps == pytest.approx(29.83, abs=0.01)
        stamps = []
        for frame in source:
            assert frame.image.shape == (360, 640, 3)
            assert frame.image.std() > 10
            stamps.append(frame.time_ns)
            if frame.index >= 30:
                break
    assert stamps == sorted(set(stamps))
    assert capfd.readouterr() == ("", "")


def test_a_slow_reader_gets_the_newest_frame(rtsp_server: RtspServer) -> None:
    with open_source(rtsp_server.url) as source:
        first = source.read()
        assert first is not None
        index, dropped, asleep = first.index, source.dropped, time.monotonic_ns()
        time.sleep(1)
        frame = source.read()
        assert frame is not None
        assert frame.index > index + 10
        assert source.dropped - dropped == frame.index - index - 1
        assert frame.time_ns > asleep + 500_000_000


def test_a_server_that_goes_and_comes_back(rtsp_server: RtspServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgesparse.stream")
    with open_source(rtsp_server.url) as source:
        assert source.read() is not None
        rtsp_server.kill()
        back = threading.Timer(1, rtsp_server.start)
        back.start()
        while source.reopened == 0:
            frame = source.read()
        back.join()
        assert frame is not None and frame.image.shape == (360, 640, 3)
    assert [message.split(" after ")[0] for message in caplog.messages] == [
        f"{rtsp_server.url} delivers no frames (the stream ended); reopening it until it does",
        f"{rtsp_server.url} is back",
    ]


def test_a_change_of_size_in_mid_stream(rtsp_server: RtspServer, real: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.mp4"
    original = real / "video" / "bottle-detection.mp4"
    scaled = f"filesrc location={original} ! decodebin ! videoconvert ! videoscale ! video/x-raw,width=320,height=240"
    coding = f"gst-launch-1.0 -q {scaled} ! openh264enc ! h264parse ! mp4mux ! filesink location={small}"
    if subprocess.run(coding.split(), capture_output=True, check=False).returncode or not small.stat().st_size:
        pytest.skip(f"no openh264enc: {INSTALL}")
    with open_source(rtsp_server.url) as source:
        assert source.read() is not None
        rtsp_server.tell("video", "video", small)
        while (frame := source.read()) is not None and frame.image.shape != (240, 320, 3):
            assert frame.image.shape == (360, 640, 3)
        assert source.reopened == 1


def test_python_may_end_while_a_camera_stalls(rtsp_server: RtspServer) -> None:
    program = f"""
import os, time
from edgesparse.stream.sources.open import open_source
with open_source("{rtsp_server.url}") as source:
    source.read()
    os.kill({rtsp_server.process.pid}, {signal.SIGSTOP})
    time.sleep(0.5)  # until the capture thread waits for the network
os.kill({rtsp_server.process.pid}, {signal.SIGKILL})  # which ends that wait while Python ends
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_waiting_for_a_key_frame_is_a_state(rtsp_server: RtspServer, caplog: pytest.LogCaptureFixture) -> None:
    """A second viewer joins in the middle of a GOP; the first one keeps the stream going."""
    caplog.set_level(logging.INFO, "edgesparse.stream")
    with open_source(rtsp_server.url) as first:
        assert first.read() is not None
        rtsp_server.tell("delta", "video")
        with open_source(rtsp_server.url, patient=True, name="late") as source:
            until(lambda: source.watch() or source.state == "waiting")
            assert source.why == "waiting for a key frame"
            until(lambda: source.watch() or time.monotonic_ns() - source.since_ns > 3e9)
            assert source.state == "waiting" and source.reopened == 0, "longer than a stall"
            rtsp_server.tell("play", "video")
            until(lambda: source.state == "live")
    assert "late is waiting for a key frame" in caplog.messages


def test_a_stream_over_udp(rtsp_server: RtspServer) -> None:
    with open_source(rtsp_server.url, transport="udp") as source:
        for _ in range(10):
            frame = source.read()
            assert frame is not None and frame.image.shape == (360, 640, 3)
