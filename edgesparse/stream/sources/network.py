"""Network streams: RTSP, HTTP and others, through FFmpeg or the Jetson's GStreamer."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import cv2

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.redaction import redact
from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.stream.sources import ffmpeg_log
from edgesparse.stream.sources.capture import KEY_FRAME_SECONDS, OPEN_SECONDS, Capture
from edgesparse.stream.sources.gstreamer import NoGStreamer, has_video_decoder, open_rtsp
from edgesparse.stream.sources.refusals import refusal

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
_WITH_HOST = SCHEMES[:5]
"""Schemes of a client; the others may also listen on a port of this machine."""
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_PROBES = ("analyzeduration;100000", "fpsprobesize;0")
"""FFmpeg's options for RTSP: probe a tenth of a second, enough if the camera describes its stream in advance; if that
is too short, as much as it takes to learn the image size."""

_REFUSED = re.compile(r"method \w+ failed|Connection to \S+ failed|Failed to resolve")

Transport = Literal["tcp", "udp"]


@dataclass(frozen=True)
class Address:
    """A network stream. Calling it opens the stream in this process. Can be pickled. Raises CameraUnavailable."""

    url: str
    fps: float | None = None
    """Frames per second that it is known to send, or rate at which snapshots are requested."""
    transport: Transport = "tcp"
    """RTSP transport."""

    def __call__(self) -> Capture:
        from edgesparse.stream.sources.snapshots import is_snapshot, open_snapshots  # a client for HTTP

        if self.url.lower().startswith("rtsp") and has_video_decoder():
            with suppress(NoGStreamer):
                return open_rtsp(self.url, self.fps, self.transport)
        if is_snapshot(self.url):
            return open_snapshots(self.url, self.fps)
        return open_url(self.url, self.transport)


def check_url(url: str) -> None:
    """Raise SourceError for an address that FFmpeg would misread."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in SCHEMES:
        raise SourceError(f"cannot open {redact(url)}: an address starts with one of {', '.join(SCHEMES)} or csi")
    host = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if scheme.lower() in _WITH_HOST and host.partition(":")[0] == "":
        raise SourceError(f"cannot open {redact(url)}: it names no host; write {scheme}://HOST/PATH")
    end = re.search(r"[/?#]", rest)
    if end is None or "@" in rest[: end.start()] or "@" not in rest[end.start() :]:
        return
    _, colon, password = rest[: end.start()].partition(":")
    if colon and (end[0] == "#" or not password.isdecimal()):  # otherwise it is a host with a port
        raise SourceError(
            f"cannot open {redact(url)}: the password contains '{end[0]}', which has another meaning in an address; "
            f"write it as %{ord(end[0]):02X}"
        )


def open_url(url: str, transport: Transport = "tcp") -> cv2.VideoCapture:
    """Open an address through FFmpeg. OPENCV_FFMPEG_CAPTURE_OPTIONS in the environment takes precedence over our
    options.

    Raises CameraUnavailable with the reason if this process keeps FFmpeg's log, and AuthenticationFailed."""
    prepare_opencv()
    ffmpeg_log.taken_so_far()
    if OPTIONS in os.environ or not url.lower().startswith("rtsp"):
        capture = _through_ffmpeg(url)
        if not capture.isOpened():
            log = ffmpeg_log.taken_so_far()
            if url.lower().startswith("http") and "HTTP error" not in log:
                from edgesparse.stream.sources.snapshots import check_answer

                check_answer(url)  # FFmpeg does not log a 401
            raise refusal(url, log, transport)
        return capture
    return _over_rtsp(url, transport)


def _over_rtsp(url: str, transport: Transport) -> cv2.VideoCapture:
    log = ""
    try:
        for probe in _PROBES:
            os.environ[OPTIONS] = f"rtsp_transport;{transport}|{probe}"
            capture = _through_ffmpeg(url)
            if capture.isOpened():
                return capture
            log = ffmpeg_log.taken_so_far()
            if _REFUSED.search(log):
                break  # refused: trying again immediately would count as another wrong password
    finally:
        del os.environ[OPTIONS]
    if "nal_unit_type" in log:
        raise CameraUnavailable(f"cannot open {redact(url)}: it sends no key frame in {OPEN_SECONDS} s")
    raise refusal(url, log, transport)


def _through_ffmpeg(url: str) -> cv2.VideoCapture:
    """Open it with FFmpeg's own time limits. Live sources have shorter ones; a file over HTTP is read without any."""
    seconds = OPEN_SECONDS if url.lower().startswith("http") else KEY_FRAME_SECONDS
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_SECONDS * 1000]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(seconds * 1000)]
    # Each additional FFmpeg thread delays by one frame.
    return cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])
