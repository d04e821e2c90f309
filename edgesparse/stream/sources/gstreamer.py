"""Captures through GStreamer, for what only the Jetson's plugins can do: CSI cameras and the video decoder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgesparse.errors import CameraUnavailable
from edgesparse.redaction import redact_text
from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.stream.frames import Image
from edgesparse.stream.pygobject import PACKAGES, gstreamer, pull
from edgesparse.stream.sources.capture import OPEN_SECONDS, Capture, read_seconds
from edgesparse.stream.sources.refusals import refusal
from edgesparse.stream.sources.v4l2 import USUAL_FPS, USUAL_SIZE, Size

_TO_BGR = "nvvidconv ! video/x-raw,format=BGRx"
DECODER = f"nvv4l2decoder enable-max-performance=1 ! {_TO_BGR}"
SINK = "videoconvert ! video/x-raw,format=BGR ! appsink name=sink drop=true max-buffers=1 sync=false"


class NoGStreamer(CameraUnavailable):
    """Neither OpenCV nor Python has GStreamer support."""


class PipelineFailed(CameraUnavailable):
    """A pipeline does not start. `details` come from GStreamer, and may contain addresses."""

    details = ""


def open_csi(sensor: int, size: Size | None, fps: float | None) -> Capture:
    """Open a camera on a Jetson's CSI port through NVIDIA's camera daemon. Written from its documentation; not yet run
    on a Jetson. Raises CameraUnavailable.
    """
    try:
        return open_pipeline(csi_pipeline(sensor, size or USUAL_SIZE, fps or USUAL_FPS), fps)
    except NoGStreamer as error:
        raise CameraUnavailable(f"csi://{sensor} needs GStreamer: {error}") from error
    except CameraUnavailable as error:
        remedy = "is the camera connected, and nvargus-daemon running? systemctl status nvargus-daemon"
        if "no element" in str(error):
            remedy = "CSI cameras need a Jetson, with JetPack's package nvidia-l4t-gstreamer"
        raise CameraUnavailable(f"cannot open csi://{sensor} ({error}): {remedy}") from error


def csi_pipeline(sensor: int, size: Size, fps: float) -> str:
    """Return GStreamer's pipeline description for a CSI camera."""
    caps = f"width={size[0]},height={size[1]},framerate={round(fps)}/1,format=NV12"
    return f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),{caps} ! {_TO_BGR} ! {SINK}"


def has_video_decoder() -> bool:
    """Whether GStreamer can use the Jetson's video decoder on this machine."""
    return any(Path("/usr/lib").glob("*/gstreamer-1.0/libgstnvvideo4linux2.so"))


def open_rtsp(url: str, fps: float | None, transport: str = "tcp", decoder: str = DECODER) -> Capture:
    """Open an RTSP stream of H.264 or H.265, decoded by the Jetson's decoder. Not yet run with that, only with another
    decoder in its place. Sets an environment variable, so it belongs in a process of its own. Raises CameraUnavailable
    and AuthenticationFailed.
    """
    # parsebin writes H.264 in the form that the highest ranked decoder prefers: with FFmpeg's installed, not in ours.
    os.environ.setdefault("GST_PLUGIN_FEATURE_RANK", f"{decoder.split()[0]}:MAX")
    try:
        return open_pipeline(f"{rtsp_source(url, transport)} ! {decoder} ! {SINK}", fps)
    except PipelineFailed as error:
        raise refusal(url, _as_ffmpeg_says(error.details), transport) from error


def _as_ffmpeg_says(details: str) -> str:
    """Translate GStreamer's reason for a failure into the words that `refusal` knows."""
    if status := re.search(r"\((\d{3})\)", details):
        return f"method ANY failed: {status[1]} ()"
    if "No supported stream was found" in details:
        return "method SETUP failed: 461 ()"
    return details


def rtsp_source(url: str, transport: str) -> str:
    """Return the beginning of a pipeline's description: what receives and parses a stream."""
    quoted = url.replace("\\", "\\\\").replace('"', '\\"')
    return f'rtspsrc location="{quoted}" protocols={transport} latency=0 ! application/x-rtp,media=video ! parsebin'


def open_pipeline(pipeline: str, fps: float | None = None) -> Capture:
    """Open a pipeline whose last element is an appsink named `sink`, with OpenCV's GStreamer or PyGObject's. Raises
    PipelineFailed, and NoGStreamer with the remedy if there is neither.
    """
    prepare_opencv()
    if re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            raise PipelineFailed("the pipeline does not start")
        return capture
    return AppSink(pipeline, read_seconds(fps))


def failure(message: Any) -> PipelineFailed:
    """Return the exception for a message of a failed pipeline; None: there is none."""
    if message is None:
        return PipelineFailed("no frame in time")
    reason, details = message.parse_error()
    failure = PipelineFailed(_one_line(reason.message))
    failure.details = f"{reason.message} {details}"
    return failure


def launched(pipeline: str) -> tuple[Any, Any]:
    """Start a pipeline with PyGObject. Returns the module Gst, and the pipeline. Raises NoGStreamer, PipelineFailed."""
    try:
        gst = gstreamer()
    except ImportError as error:
        remedy = f"sudo apt-get install {PACKAGES}, and use the system's own Python"
        raise NoGStreamer(f"OpenCV here lacks it, and {error}: {remedy}") from None
    try:
        started = gst.parse_launch(pipeline)
    except Exception as error:  # GLib.Error, which only PyGObject defines; it names a missing element
        raise PipelineFailed(_one_line(getattr(error, "message", str(error)))) from None
    started.set_state(gst.State.PLAYING)
    return gst, started


class AppSink:
    """A Capture of a pipeline through PyGObject; its last element is an appsink named `sink` that takes BGR."""

    def __init__(self, pipeline: str, read_seconds: float) -> None:
        gst, self._pipeline = launched(pipeline)
        self._gst = gst
        self._wait = int(read_seconds * gst.SECOND)
        self._sink = self._pipeline.get_by_name("sink")
        self._sample, message = pull(gst, self._pipeline, OPEN_SECONDS)
        if self._sample is None:
            self.release()
            raise failure(message)
        self._is_first = True

    def grab(self) -> bool:
        if not self._is_first:
            self._sample = self._sink.try_pull_sample(self._wait)
        self._is_first = False
        return self._sample is not None

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        structure = self._sample.get_caps().get_structure(0)
        height, width = structure.get_value("height"), structure.get_value("width")
        if image is None or image.shape != (height, width, 3):
            image = np.empty((height, width, 3), np.uint8)
        buffer = self._sample.get_buffer()
        is_mapped, mapped = buffer.map(self._gst.MapFlags.READ)
        if not is_mapped:
            return False, image
        try:
            row = (3 * width + 3) // 4 * 4  # GStreamer's rows start at multiples of four bytes
            rows = np.frombuffer(mapped.data, np.uint8)[: row * height].reshape(height, row)
            np.copyto(image, rows[:, : 3 * width].reshape(height, width, 3))
        finally:
            buffer.unmap(mapped)
        return True, image

    def get(self, propId: int, /) -> float:
        if propId != cv2.CAP_PROP_FPS:
            return 0.0
        is_known, frames, seconds = self._sample.get_caps().get_structure(0).get_fraction("framerate")
        return frames / seconds if is_known and seconds else 0.0

    def release(self) -> None:
        self._pipeline.set_state(self._gst.State.NULL)


def _one_line(text: str) -> str:
    """Return one line without credentials."""
    return redact_text(" ".join(text.split()))
