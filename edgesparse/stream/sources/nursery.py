"""Where captures live that must not hold up others: a process of its own each, forked from one that has OpenCV loaded.

apart.py starts it; it takes a connection for each capture over standard input, and forks. A process's OpenCV opens one
address at a time, however long that takes; a crash in a decoder ends a process; and a driver that never comes back can
only be ended with its process. The pages of OpenCV are shared by all.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import threading
from importlib import import_module
from multiprocessing.connection import Connection
from typing import NoReturn

import cv2
import numpy as np

from edgesparse.errors import SourceError
from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.captures import Capture, Opener, frame_rate

_IDLE = 0.002
_DEBUG = 48
"""FFmpeg's AV_LOG_DEBUG"""


def main() -> None:
    """Fork a child for each connection that comes; end when nobody can send any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started it ends it, when the last frames are done
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listens = "OPENCV_FFMPEG_DEBUG" not in os.environ  # else whoever looks for a fault there reads it
    if listens:
        os.environ.update(OPENCV_FFMPEG_DEBUG="1", OPENCV_FFMPEG_LOGLEVEL=str(_DEBUG))
    prepare_opencv()
    import_module("edgesparse.stream.sources.open")  # what children are asked to open comes from there
    with socket.socket(fileno=0) as orders:
        while True:
            said, found, _, _ = socket.recv_fds(orders, 1, 1)
            if not said:
                return
            if os.fork() == 0:
                orders.close()
                _live(Connection(found[0]), _Decoder() if listens else None)
            os.close(found[0])


def _live(parent: Connection, decoder: _Decoder | None) -> NoReturn:
    """A child: open what the parent says, then give it each frame it asks for, the newest."""
    try:
        opener: Opener = parent.recv()
        wanted = threading.Event()
        threading.Thread(target=_listen, args=(parent, wanted), daemon=True).start()
        capture = opener()
        parent.send((frame_rate(capture), float(capture.get(cv2.CAP_PROP_FRAME_COUNT))))
        _pump(parent, capture, wanted, decoder)
        parent.send(None)
    except SourceError as error:
        parent.send(error)
    except (OSError, EOFError, cv2.error):
        pass  # the parent sees the end of the connection
    finally:
        os._exit(0)


def _listen(parent: Connection, wanted: threading.Event) -> None:
    """Note what the parent asks for, and end when it has gone, wherever the capture hangs."""
    try:
        while True:
            parent.recv_bytes()
            wanted.set()
    except (EOFError, OSError):
        os._exit(0)


def _pump(parent: Connection, capture: Capture, wanted: threading.Event, decoder: _Decoder | None) -> None:
    shared = _Shared(parent)
    while capture.grab():
        if decoder is not None and decoder.began_anew():
            raise SourceError("its images have another size or format now")
        if not wanted.is_set() and not wanted.wait(_IDLE):
            continue
        ok, image = capture.retrieve(shared.image)
        wanted.clear()
        parent.send(("frame", shared.share(image) if ok and image.size else None))


class _Decoder:
    """Whether the decoder has begun anew, for images of another size or format.

    OpenCV hides that: it scales to the size that it was opened with. But FFmpeg says it, in words that OpenCV prints,
    and that this process's standard output is for; each time they are read they are gone.
    """

    def __init__(self) -> None:
        self._words = os.memfd_create("ffmpeg")
        os.dup2(self._words, 1)
        self._flush = ctypes.CDLL(None).fflush
        self._began = False

    def began_anew(self) -> bool:
        """Since the last call; not where that was the first."""
        self._flush(None)
        size = os.fstat(self._words).st_size
        said = os.pread(self._words, size, 0)
        os.lseek(self._words, 0, os.SEEK_SET)
        os.ftruncate(self._words, 0)
        first, self._began = not self._began, True
        return not first and b"chosen by get_format" in said


class _Shared:
    """One image in memory that the parent sees too."""

    def __init__(self, parent: Connection) -> None:
        self._parent = parent
        self.image: Image | None = None

    def share(self, image: Image) -> tuple[int, ...]:
        """Have `image` in the shared memory, which is made anew for another size; returns its shape."""
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
