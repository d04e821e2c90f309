"""The fork server for captures, and its children: one process for each capture that must not hold up others.

isolated.py starts it; it receives a connection for each capture over standard input, and forks. In one process OpenCV
opens one address at a time, however long that takes; a crash in a decoder ends the process; and a driver that never
returns can only be ended with its process. All of them share the pages of OpenCV.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import threading
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import NoReturn

import cv2
import numpy as np

from edgesparse.errors import SourceError
from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.stream.frames import Image
from edgesparse.stream.sources import ffmpeg_log
from edgesparse.stream.sources.capture import Capture, Opener, frame_rate
from edgesparse.stream.sources.ffmpeg_log import FfmpegLog

IDLE_SECONDS = 0.002
DATA_SECONDS = 0.3
"""Seconds between notifications to the parent that data arrives before the first frame."""


def main() -> None:
    """Fork a child for each connection that arrives; end when no more can arrive."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent ends this process, after the last frames
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    keeps_log = ffmpeg_log.enable()
    prepare_opencv()
    import_module("edgesparse.stream.sources.open")  # the openers sent to children are defined there
    with socket.socket(fileno=0) as orders:
        while True:
            order, descriptors, _, _ = socket.recv_fds(orders, 1, 1)
            if not order:
                return
            if os.fork() == 0:
                orders.close()
                _serve(Connection(descriptors[0]), ffmpeg_log.start() if keeps_log else None)
            os.close(descriptors[0])


def _serve(parent: Connection, log: FfmpegLog | None) -> NoReturn:
    """Run a child: open what the parent sends, then pass it the newest frame whenever it requests one."""
    try:
        opener: Opener = parent.recv()
        requested = threading.Event()
        threading.Thread(target=_listen, args=(parent, requested), daemon=True).start()
        capture = opener()
        parent.send((frame_rate(capture), float(capture.get(cv2.CAP_PROP_FRAME_COUNT))))
        _send_frames(parent, capture, requested, log)
        parent.send(None)
    except SourceError as error:
        parent.send(error)
    except (OSError, EOFError, cv2.error):
        pass  # the parent notices that the connection has ended
    finally:
        os._exit(0)


def _listen(parent: Connection, requested: threading.Event) -> None:
    """Note the parent's requests, and end this process when the parent is gone, wherever the capture hangs."""
    try:
        while True:
            parent.recv_bytes()
            requested.set()
    except (EOFError, OSError):
        os._exit(0)


def _send_frames(parent: Connection, capture: Capture, requested: threading.Event, log: FfmpegLog | None) -> None:
    shared, restarts = _SharedImage(parent), None if log is None else _Restarts(log)
    data = None if log is None else _DataMonitor(parent, log)
    try:
        is_open = capture.grab()
    finally:
        if data is not None:
            data.stop()
    while is_open:
        if restarts is not None and restarts.restarted():
            raise SourceError("the size or format of its images has changed")
        if requested.is_set() or requested.wait(IDLE_SECONDS):
            decoded, image = capture.retrieve(shared.image)
            requested.clear()
            parent.send(("frame", shared.share(image) if decoded and image.size else None))
        is_open = capture.grab()


class _DataMonitor:
    """Notifies the parent while the decoder receives data but can decode nothing before the next key frame."""

    def __init__(self, parent: Connection, log: FfmpegLog) -> None:
        self._parent, self._log, self._stopped = parent, log, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        seen = self._log.size()
        while not self._stopped.wait(DATA_SECONDS):
            text = self._log.peek(seen)
            seen += len(text)
            if b"nal_unit_type" in text:
                with suppress(OSError):  # the parent is gone
                    self._parent.send(("data",))

    def stop(self) -> None:
        """Stop, and return once nothing more is sent."""
        self._stopped.set()
        self._thread.join()


class _Restarts:
    """Detects that the decoder has started over, for images of a different size or format.

    OpenCV hides that: it scales to the size that the stream was opened with. But FFmpeg logs it."""

    def __init__(self, log: FfmpegLog) -> None:
        self._log, self._is_first = log, True

    def restarted(self) -> bool:
        """Return whether it has since the last call; False in the first call."""
        is_first, self._is_first = self._is_first, False
        return b"chosen by get_format" in self._log.take() and not is_first


class _SharedImage:
    """An image in memory that the parent maps too."""

    def __init__(self, parent: Connection) -> None:
        self._parent = parent
        self.image: Image | None = None

    def share(self, image: Image) -> tuple[int, ...]:
        """Copy `image` into the shared memory, which is reallocated if the size differs. Returns its shape."""
        if self.image is None or image.shape != self.image.shape:
            file = os.memfd_create("frame")
            os.ftruncate(file, image.nbytes)
            self._parent.send(image.shape)
            with socket.socket(fileno=os.dup(self._parent.fileno())) as channel:
                socket.send_fds(channel, [b"f"], [file])
            self.image = np.frombuffer(mmap.mmap(file, image.nbytes), np.uint8).reshape(image.shape)
            os.close(file)
        if image is not self.image:
            np.copyto(self.image, image)
        return image.shape
