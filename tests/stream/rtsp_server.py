"""Cameras on the loopback interface for tests: each video as an H.264 RTSP stream in real time, repeated, at
rtsp://127.0.0.1:PORT/NAME, from its start whenever the first viewer connects.

Run by the system's Python, which has GStreamer's bindings: rtsp_server.py PORT NAME=VIDEO.mp4 ... [--times FILE].
Prints its port when it listens; exits when standard input closes. Commands on standard input make a camera fail:
`freeze NAME` repeats one image, `stall NAME` sends nothing, `garbage NAME` sends bytes that are not images, `play NAME`
ends that; `video NAME VIDEO.mp4` continues with another video, `delta NAME` leaves out key frames. FILE is int64
[cameras, MOST]: when each image of a camera's video was last sent, in nanoseconds of the monotonic clock, by its number
in the video.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import sys
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtspServer  # noqa: E402, F401

MOST = 4096
LAUNCH = "( appsrc name=src is-live=true format=time do-timestamp=true max-bytes=0 ! rtph264pay name=pay0 pt=96 )"


class Video:
    """The encoded images of a file, each with whether it is a key frame."""

    def __init__(self, path: str) -> None:
        pipeline = Gst.parse_launch(
            f'filesrc location="{path}" ! qtdemux ! h264parse config-interval=-1 ! '
            "video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=sink sync=false"
        )
        pipeline.set_state(Gst.State.PLAYING)
        sink = pipeline.get_by_name("sink")
        self.images: list[tuple[bytes, bool]] = []
        self.caps: Any = None
        while len(self.images) < MOST:
            sample = sink.emit("pull-sample")
            if sample is None:
                break
            self.caps = sample.get_caps()
            buffer = sample.get_buffer()
            is_key = not buffer.get_flags() & Gst.BufferFlags.DELTA_UNIT
            self.images.append((buffer.extract_dup(0, buffer.get_size()), is_key))
        pipeline.set_state(Gst.State.NULL)
        is_known, frames, seconds = self.caps.get_structure(0).get_fraction("framerate")
        self.period = seconds / frames if is_known and frames else 1 / 30


class Camera(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]
    def __init__(self, video: Video, number: int, times: mmap.mmap | None) -> None:
        super().__init__()
        self.video, self.state = video, "play"
        self._number, self._times = number, times
        self._source: Any = None
        self._next = 0
        self._due, self._frozen = 0.0, b""
        self.set_launch(LAUNCH)
        self.set_shared(True)
        self.connect("media-configure", self._configure)

    def _configure(self, _factory: Any, media: Any) -> None:
        self._source, self._next, self._due = media.get_element().get_by_name("src"), 0, time.monotonic()
        self._source.set_property("caps", self.video.caps)
        source = self._source
        media.connect("unprepared", lambda *_: self._forget(source))
        self._tick(source)

    def _forget(self, source: Any) -> None:
        if self._source is source:
            self._source = None

    def enter(self, state: str) -> None:
        """Applies from now on. The frozen image is the last key frame."""
        images = self.video.images
        self._frozen = images[next(i for i in range(self._next - 1, -len(images), -1) if images[i][1])][0]
        self.state = state

    def show(self, video: Video) -> None:
        self.video, self._next = video, 0
        if self._source is not None:
            self._source.set_property("caps", video.caps)

    def _tick(self, source: Any) -> bool:
        if self._source is not source:
            return False
        if self.state != "stall":
            source.emit("push-buffer", Gst.Buffer.new_wrapped(self._image()))
        self._due = max(self._due + self.video.period, time.monotonic() - 1)
        GLib.timeout_add(max(0, round(1000 * (self._due - time.monotonic()))), self._tick, source)
        return False

    def _image(self) -> bytes:
        images = self.video.images
        if self.state == "garbage":
            return b"\0\0\0\1" + random.randbytes(2000)
        if self.state == "freeze":
            return self._frozen
        number, self._next = self._next, (self._next + 1) % len(images)
        while self.state == "delta" and images[number][1]:
            number, self._next = self._next, (self._next + 1) % len(images)
        if self._times is not None:
            struct.pack_into("q", self._times, 8 * (self._number * MOST + number), time.monotonic_ns())
        return images[number][0]


def main() -> None:
    arguments = sys.argv[1:]
    times = None
    if "--times" in arguments:
        at = arguments.index("--times")
        file = os.open(arguments[at + 1], os.O_RDWR)
        times = mmap.mmap(file, 0)
        del arguments[at : at + 2]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(arguments[0])
    cameras: dict[str, Camera] = {}
    videos: dict[str, Video] = {}
    for number, argument in enumerate(arguments[1:]):
        name, _, path = argument.partition("=")
        videos[path] = videos.get(path) or Video(path)
        cameras[name] = Camera(videos[path], number, times)
        server.get_mount_points().add_factory(f"/{name}", cameras[name])
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    loop = GLib.MainLoop()

    def obey(_channel: Any, condition: Any) -> bool:
        line = sys.stdin.readline().split()
        if not line:
            loop.quit()
            return False
        camera = cameras[line[1]]
        if line[0] == "video":
            videos[line[2]] = videos.get(line[2]) or Video(line[2])
            camera.show(videos[line[2]])
        else:
            camera.enter(line[0])
        print("done", flush=True)
        return True

    GLib.io_add_watch(sys.stdin.fileno(), GLib.IO_HUP | GLib.IO_IN, obey)
    loop.run()


if __name__ == "__main__":
    main()
