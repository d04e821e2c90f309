"""Captures through GStreamer with PyGObject: its test source in place of a CSI camera, a software decoder in place of a
Jetson's. nvarguscamerasrc and nvv4l2decoder themselves have not been run."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from rtsp import SYSTEM_PYTHON, RtspServer
from rtsp_responder import RtspResponder

from edgesparse.errors import AuthenticationFailed, CameraUnavailable
from edgesparse.stream import pygobject
from edgesparse.stream.sources import gstreamer
from edgesparse.stream.sources.gstreamer import SINK, NoGStreamer, csi_pipeline, open_csi, open_pipeline, open_rtsp
from edgesparse.stream.sources.isolated import IsolatedOpener
from edgesparse.stream.sources.live import LiveSource


def has_bindings() -> bool:
    """Whether the system's PyGObject supports this version of Python."""
    program = "import sys, gi; gi.require_version('GstApp', '1.0'); print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([SYSTEM_PYTHON, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "{}.{}".format(*sys.version_info[:2])


@pytest.fixture
def bindings() -> None:
    if not has_bindings():
        pytest.skip("no PyGObject for this Python: apt-get install python3-gi gir1.2-gst-plugins-base-1.0")


@pytest.mark.gstreamer
@pytest.mark.parametrize("width", [320, 322, 321])
def test_the_frames_of_a_pipeline(bindings: None, width: int) -> None:
    """Green in every row, even if GStreamer's rows are longer than the image's."""
    image = f"videotestsrc is-live=true pattern=green ! video/x-raw,width={width},height=240,framerate=50/1"
    with LiveSource("test", IsolatedOpener(partial(open_pipeline, f"{image} ! {SINK}"), "test")) as source:
        frames = [source.read() for _ in range(10)]
    assert source.fps == 50
    for frame in frames:
        assert frame is not None and frame.image.shape == (240, width, 3)
    assert frame is not None
    assert (np.abs(frame.image.astype(int) - (0, 255, 0)) < 5).all()


@pytest.mark.gstreamer
def test_a_pipeline_that_ends_is_reopened(bindings: None) -> None:
    image = "videotestsrc is-live=true num-buffers=5 ! video/x-raw,width=64,height=48"
    with LiveSource("test", IsolatedOpener(partial(open_pipeline, f"{image} ! {SINK}"), "test")) as source:
        while source.reopened < 2:
            assert source.read() is not None


@pytest.mark.gstreamer
def test_csi_without_a_jetson_names_what_is_missing(bindings: None) -> None:
    with pytest.raises(
        CameraUnavailable, match=r'^cannot open csi://0 \(no element "nvarguscamerasrc"\): CSI .* a Jetson'
    ):
        IsolatedOpener(partial(open_csi, 0, None, None), "csi://0")()


@pytest.mark.gstreamer
def test_exceptions_in_libraries_loaded_after_gstreamer_are_caught(bindings: None) -> None:
    """GStreamer brings a second unwinder, libunwind, into a process that already has GCC's."""
    program = """
import cv2
from edgesparse.stream.pygobject import gstreamer
gstreamer()
import onnxruntime
try:
    onnxruntime.RunOptions().get_run_config_entry("none")
except RuntimeError:
    print("caught")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "caught\n"), done.stderr


@pytest.mark.gstreamer
@pytest.mark.rtsp
def test_rtsp_through_gstreamer(bindings: None, rtsp_server: RtspServer) -> None:
    """As with a Jetson's decoder, but with a software decoder."""
    url = rtsp_server.url.replace("://", '://user:sec"ret\\@')
    opener = partial(open_rtsp, url, None, "tcp", "openh264dec")
    with LiveSource("camera", IsolatedOpener(opener, "camera")) as source:
        frames = [source.read() for _ in range(20)]
        assert all(frame is not None and frame.image.shape == (360, 640, 3) for frame in frames)
        rtsp_server.kill()
        rtsp_server.start()
        while source.reopened == 0:
            source.read()


@pytest.mark.gstreamer
def test_rtsp_through_gstreamer_hides_the_password(bindings: None) -> None:
    with pytest.raises(CameraUnavailable) as caught:
        IsolatedOpener(partial(open_rtsp, "rtsp://user:secret@127.0.0.1:9/x", None, "tcp", "openh264dec"), "camera")()
    assert str(caught.value) == "cannot open rtsp://127.0.0.1:9/x: is the address right and the camera on?"


@pytest.mark.gstreamer
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "401, wrong user name or password"),
        (403, "403, this user may not view it"),
        (404, "404, the camera has no stream at this path"),
        (453, "453, no bandwidth left for another viewer"),
        (461, "461, the camera does not offer TCP: set 'transport: udp'"),
        (503, "503, the camera is busy or still starting"),
    ],
)
def test_each_status_has_its_own_words_through_gstreamer_too(bindings: None, status: int, words: str) -> None:
    camera = RtspResponder(status)
    try:
        with pytest.raises(CameraUnavailable, match=words) as caught:
            IsolatedOpener(partial(open_rtsp, camera.url(), None, "tcp", "openh264dec"), "camera")()
    finally:
        camera.close()
    assert isinstance(caught.value, AuthenticationFailed) == (status in (401, 403))


def test_without_gstreamer_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pygobject, "_SYSTEM_PACKAGES", "/nowhere")
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(NoGStreamer, match="sudo apt-get install python3-gi"):
        open_pipeline(f"videotestsrc ! {SINK}")
    with pytest.raises(CameraUnavailable, match=r"^csi://0 needs GStreamer: OpenCV here lacks it, and Python 3"):
        open_csi(0, None, None)


def test_opencv_s_own_gstreamer_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Refuses:
        def __init__(self, pipeline: str, api: int) -> None:
            opened.append((pipeline, api))

        def isOpened(self) -> bool:
            return False

    monkeypatch.setattr(gstreamer.cv2, "getBuildInformation", lambda: "    GStreamer:      YES (1.20.3)\n")
    monkeypatch.setattr(gstreamer.cv2, "VideoCapture", Refuses)
    with pytest.raises(CameraUnavailable, match=r"^cannot open csi://1 \(the pipeline does not start\)"):
        open_csi(1, (1920, 1080), 29.97)
    assert opened == [(csi_pipeline(1, (1920, 1080), 29.97), gstreamer.cv2.CAP_GSTREAMER)]


def test_the_pipeline_of_a_csi_camera_requests_size_and_rate() -> None:
    pipeline = csi_pipeline(1, (1920, 1080), 29.97)
    assert "nvarguscamerasrc sensor-id=1 ! " in pipeline
    assert "width=1920,height=1080,framerate=30/1" in pipeline
    assert pipeline.endswith("appsink name=sink drop=true max-buffers=1 sync=false")
