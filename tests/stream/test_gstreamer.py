"""Captures through GStreamer by PyGObject, with its test image in a camera's place and a decoder of this machine's in
that of a Jetson's. nvarguscamerasrc and nvv4l2decoder themselves have not run."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from rtsp import SYSTEM_PYTHON, RtspServer

from edgesparse.errors import CameraUnavailable
from edgesparse.stream.sources import gstreamer
from edgesparse.stream.sources.gstreamer import SINK, NoGStreamer, csi_pipeline, open_csi, open_pipeline, open_rtsp
from edgesparse.stream.sources.live import Live
from edgesparse.stream.sources.process import Apart


def has_bindings() -> bool:
    """Whether the system's PyGObject fits this Python."""
    program = "import sys, gi; gi.require_version('GstApp', '1.0'); print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([SYSTEM_PYTHON, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "{}.{}".format(*sys.version_info[:2])


@pytest.fixture
def bindings() -> None:
    if not has_bindings():
        pytest.skip("no PyGObject for this Python: apt-get install python3-gi gir1.2-gst-plugins-base-1.0")


@pytest.mark.gstreamer
@pytest.mark.parametrize("width", [320, 322, 321])
def test_a_pipelines_frames(bindings: None, width: int) -> None:
    """Green on every row, also where GStreamer's rows are longer than the image."""
    image = f"videotestsrc is-live=true pattern=green ! video/x-raw,width={width},height=240,framerate=50/1"
    with Live("test", Apart(partial(open_pipeline, f"{image} ! {SINK}"), "test")) as source:
        frames = [source.read() for _ in range(10)]
    assert source.fps == 50
    for frame in frames:
        assert frame is not None and frame.image.shape == (240, width, 3)
    assert frame is not None
    assert (np.abs(frame.image.astype(int) - (0, 255, 0)) < 5).all()


@pytest.mark.gstreamer
def test_a_pipeline_that_ends_is_opened_again(bindings: None) -> None:
    image = "videotestsrc is-live=true num-buffers=5 ! video/x-raw,width=64,height=48"
    with Live("test", Apart(partial(open_pipeline, f"{image} ! {SINK}"), "test")) as source:
        while source.reopened < 2:
            assert source.read() is not None


@pytest.mark.gstreamer
def test_csi_without_a_jetson_says_what_is_missing(bindings: None) -> None:
    with pytest.raises(CameraUnavailable, match=r'^cannot open csi://0 \(no element "nvarguscamerasrc"\): .*nvargus'):
        Apart(partial(open_csi, 0, None, None), "csi://0")()


@pytest.mark.gstreamer
@pytest.mark.rtsp
def test_rtsp_through_gstreamer(bindings: None, rtsp_server: RtspServer) -> None:
    """The way of a Jetson's decoder, with a decoder in software."""
    url = rtsp_server.url.replace("://", '://user:sec"ret\\@')
    opener = partial(open_rtsp, url, None, "openh264dec")
    with Live("camera", Apart(opener, "camera")) as source:
        frames = [source.read() for _ in range(20)]
        assert all(frame is not None and frame.image.shape == (360, 640, 3) for frame in frames)
        rtsp_server.kill()
        rtsp_server.start()
        while source.reopened == 0:
            source.read()


@pytest.mark.gstreamer
def test_rtsp_through_gstreamer_hides_the_password(bindings: None) -> None:
    with pytest.raises(CameraUnavailable) as caught:
        Apart(partial(open_rtsp, "rtsp://user:secret@127.0.0.1:9/x", None, "openh264dec"), "camera")()
    assert str(caught.value) == "cannot open rtsp://127.0.0.1:9/x: is the address right and the camera on?"


def test_without_any_gstreamer_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "_SYSTEM_PACKAGES", "/nowhere")
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(NoGStreamer, match="sudo apt-get install python3-gi"):
        open_pipeline(f"videotestsrc ! {SINK}")
    with pytest.raises(CameraUnavailable, match=r"^csi://0 needs GStreamer: OpenCV here has none, and Python 3"):
        open_csi(0, None, None)


def test_opencvs_own_gstreamer_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_pipeline_of_a_csi_camera_asks_for_size_and_rate() -> None:
    pipeline = csi_pipeline(1, (1920, 1080), 29.97)
    assert "nvarguscamerasrc sensor-id=1 ! " in pipeline
    assert "width=1920,height=1080,framerate=30/1" in pipeline
    assert pipeline.endswith("appsink name=sink drop=true max-buffers=1 sync=false")
