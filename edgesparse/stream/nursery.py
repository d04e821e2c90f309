"""Where captures live that must not hold up others: a process of its own each, forked from one that has OpenCV loaded.

apart.py starts it; it takes a connection for each capture over standard input, and forks. A process's OpenCV opens one
address at a time, however long that takes; a crash in a decoder ends a process; and a driver that never comes back can
only be ended with its process. The pages of OpenCV are shared by all.
"""

from __future__ import annotations

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
from edgesparse.stream.captures import Capture, Opener, frame_rate, prepare_opencv
from edgesparse.stream.frames import Image

_IDLE = 0.002


def main() -> None:
    """Fork a child for each connection that comes; end when nobody can send any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started it ends it, when the last frames are done
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    prepare_opencv()
    import_module("edgesparse.stream.sources")  # what children are asked to open comes from there
    with socket.socket(fileno=0) as orders:
        while True:
            said, found, _, _ = socket.recv_fds(orders, 1, 1)
            if not said:
                return
            if os.fork() == 0:
                orders.close()
                _live(Connection(found[0]))
            os.close(found[0])


def _live(parent: Connection) -> NoReturn:
    """A child: open what the parent says, then give it each frame it asks for, the newest."""
    try:
        opener: Opener = parent.recv()
        wanted = threading.Event()
        threading.Thread(target=_listen, args=(parent, wanted), daemon=True).start()
        capture = opener()
        parent.send((frame_rate(capture), float(capture.get(cv2.CAP_PROP_FRAME_COUNT))))
        _pump(parent, capture, wanted)
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


def _pump(parent: Connection, capture: Capture, wanted: threading.Event) -> None:
    shared = _Shared(parent)
    while capture.grab():
        if not wanted.is_set() and not wanted.wait(_IDLE):
            continue
        ok, image = capture.retrieve(shared.image)
        wanted.clear()
        parent.send(("frame", shared.share(image) if ok and image.size else None))


class _Shared:
    """One picture in memory that the parent sees too."""

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
