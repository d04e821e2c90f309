"""H.264 by GStreamer: a Jetson's encoder, or OpenH264 where its plugin is installed."""

from __future__ import annotations

import functools
from collections import deque
from typing import Any

import numpy as np

from edgesparse.errors import SinkError
from edgesparse.stream.frames import Image
from edgesparse.stream.pygobject import PACKAGES, gstreamer, pull
from edgesparse.stream.recording.encoders import Encoder
from edgesparse.stream.recording.packets import Track
from edgesparse.wording import short

ELEMENTS = {
    "nvv4l2h264enc": "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! nvv4l2h264enc name=encoder "
    "maxperf-enable=true ratecontrol-enable=false quant-i-frames=26 quant-p-frames=26 insert-sps-pps=true",
    "openh264enc": "openh264enc name=encoder rate-control=off complexity=low gop-size=0",
}
"""Encoders by name, best first, at constant quality. nvv4l2h264enc follows its documentation and has not been run on a
Jetson yet. x264enc is left out because it is GPL."""
REMEDY = f"sudo apt-get install gstreamer1.0-plugins-bad {PACKAGES}"

LEAST_SIDE = 16
"""Smallest width and height in pixels that encoders accept."""
_MOST_WAITING = 4
"""Images that may be on their way through the encoder."""
_SECONDS = 5
"""Seconds without output after which an encoder counts as hung."""
_FORCE_KEY = "GstForceKeyUnit, running-time=(guint64)18446744073709551615, all-headers=(boolean)true, count=(uint)0;"
_FPS = 30


class H264Encoder(Encoder):
    """An encoder of GStreamer for images of one size. Raises SinkError if it does not work here."""

    def __init__(self, element: str, width: int, height: int) -> None:
        self._gst = gst = gstreamer()
        self._track = Track(width, height, "h264")
        self._packets: deque[tuple[bytes, bool]] = deque()
        self._pushed = self._pulled = self._begin = 0
        caps = f"video/x-raw,format=BGR,width={width},height={height},framerate={_FPS}/1"
        self._row_padding = -3 * width % 4
        try:
            self._pipeline = gst.parse_launch(
                f"appsrc name=source format=time caps={caps} ! videoconvert ! video/x-raw,format=I420 ! "
                f"{ELEMENTS[element]} ! h264parse ! video/x-h264,stream-format=avc,alignment=au ! "
                "appsink name=sink sync=false"
            )
        except Exception as error:  # GLib's error, whose class is PyGObject's; it names a missing element
            raise SinkError(short(getattr(error, "message", str(error)))) from None
        self._source, self._encoder = map(self._pipeline.get_by_name, ("source", "encoder"))
        self._pipeline.set_state(gst.State.PLAYING)
        try:
            self.add(np.zeros((height, width, 3), np.uint8))  # only a first image shows whether the hardware exists
            self.finish()
        except BaseException:
            self.close()
            raise

    def add(self, image: Image) -> None:
        gst = self._gst
        if self._pushed == self._begin:
            force = gst.Structure.new_from_string(_FORCE_KEY)
            self._encoder.send_event(gst.Event.new_custom(gst.EventType.CUSTOM_UPSTREAM, force))
        while self._pushed - self._pulled >= _MOST_WAITING:
            self._pull()
        if self._row_padding:  # GStreamer's rows begin at multiples of four bytes
            image = np.pad(image.reshape(len(image), -1), ((0, 0), (0, self._row_padding)))
        buffer = gst.Buffer.new_wrapped(image.tobytes())
        buffer.pts, buffer.duration = self._pushed * gst.SECOND // _FPS, gst.SECOND // _FPS
        self._source.push_buffer(buffer)
        self._pushed += 1

    def _pull(self) -> None:
        sample, message = pull(self._gst, self._pipeline, _SECONDS)
        if sample is None:
            reason = short(message.parse_error()[0].message) if message else "no image in time"
            raise SinkError(f"{self.name} failed: {reason}")
        buffer = sample.get_buffer()
        if not self._track.setup:
            setup = sample.get_caps().get_structure(0).get_value("codec_data")
            self._track = Track(self._track.width, self._track.height, "h264", self._contents(setup))
        self._packets.append((self._contents(buffer), not buffer.has_flags(self._gst.BufferFlags.DELTA_UNIT)))
        self._pulled += 1

    def _contents(self, buffer: Any) -> bytes:
        return bytes(buffer.extract_dup(0, buffer.get_size()))

    @property
    def name(self) -> str:
        """The element's name, such as openh264enc."""
        return str(self._encoder.get_factory().get_name())

    def finish(self) -> tuple[Track, list[tuple[bytes, bool]]]:
        while self._pulled < self._pushed:
            self._pull()
        packets = list(self._packets)
        self._packets.clear()
        self._begin = self._pushed
        return self._track, packets

    def close(self) -> None:
        self._pipeline.set_state(self._gst.State.NULL)


def open_h264(width: int, height: int) -> H264Encoder:
    """Open the best encoder that works here for images of this size. Raises SinkError with the reason of each."""
    if min(width, height) < LEAST_SIDE:
        raise SinkError(f"{width}x{height} is too small for H.264, which needs {LEAST_SIDE} pixels")
    reasons = []
    for element in ELEMENTS:
        try:
            return H264Encoder(element, width, height)
        except ImportError as error:  # noqa: PERF203 - the same for every element
            raise SinkError(
                f"no H.264 encoder works here ({error}): {REMEDY}, and use the system's own Python"
            ) from None
        except SinkError as error:
            reasons.append(str(error))
    raise SinkError(f"no H.264 encoder works here ({'; '.join(reasons)}): {REMEDY}")


@functools.cache
def h264_here() -> tuple[str, str]:
    """Return the name of the encoder that works on this machine and "", or "" and the reason."""
    try:
        encoder = open_h264(320, 240)
    except SinkError as error:
        return "", str(error)
    try:
        return encoder.name, ""
    finally:
        encoder.close()
