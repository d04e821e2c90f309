"""Captures in processes of their own, seen from here; nursery.py is the other side."""

from __future__ import annotations

import atexit
import functools
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

import cv2
import numpy as np

from edgesparse.errors import CameraUnavailable
from edgesparse.stream.captures import OPEN_SECONDS, READ_SECONDS, Opener
from edgesparse.stream.frames import Image

SHORTEST_OPEN, LONGEST_OPEN = 1.0, 3.0
"""Seconds that something which was open before may take to open again."""


class Apart:
    """Opens what `opener` opens, which must be picklable, in a process of its own; a Capture a call.

    How long it waits: at first as long as OpenCV does. Once it knows how long it takes, some more than that, and a
    little longer each time that was in vain: who was given rubbish for an answer asks again soon. Raises
    CameraUnavailable.
    """

    def __init__(self, opener: Opener, name: str, read_seconds: float = READ_SECONDS) -> None:
        self._opener, self._name, self._read_seconds = opener, name, read_seconds
        self._limit = self._longest = 2.0 * OPEN_SECONDS

    def __call__(self) -> Remote:
        begun = time.monotonic()
        try:
            capture = Remote(self._opener, self._name, self._limit, self._read_seconds)
        except CameraUnavailable:
            if time.monotonic() - begun >= self._limit:
                self._limit = min(1.25 * self._limit, self._longest)
            raise
        took, most = time.monotonic() - begun, 2.0 * OPEN_SECONDS
        self._limit, self._longest = min(max(SHORTEST_OPEN, 2 * took), most), min(max(LONGEST_OPEN, 4 * took), most)
        return capture


class Remote:
    """A capture in another process. `release` ends that, whatever it hangs in."""

    def __init__(self, opener: Opener, name: str, open_seconds: float, read_seconds: float) -> None:
        self._read_seconds = read_seconds
        self._shape: tuple[int, ...] | None = None
        self._shared: Image = np.empty((0, 0, 3), np.uint8)
        self._child = _nursery().child()
        try:
            self._child.send(opener)
            answer = self._child.recv() if self._child.poll(open_seconds) else None
        except (EOFError, OSError):
            answer = CameraUnavailable(f"{name}: what opens it has crashed")
        if not isinstance(answer, tuple):
            self.release()
            raise answer or CameraUnavailable(f"{name} gives no answer for {open_seconds:.1f} s")
        self._known: dict[int, float] = {cv2.CAP_PROP_FPS: answer[0], cv2.CAP_PROP_FRAME_COUNT: answer[1]}

    def grab(self) -> bool:
        try:
            self._child.send_bytes(b"n")
            while self._child.poll(self._read_seconds):
                said = self._child.recv()
                if said is None:
                    return False
                if isinstance(said[-1], int):
                    self._map(said)
                    continue
                self._shape = said[1]
                return True
        except (EOFError, OSError):
            pass
        return False

    def _map(self, shape: tuple[int, ...]) -> None:
        """What comes next is a file with the shared picture."""
        with socket.socket(fileno=os.dup(self._child.fileno())) as channel:
            _, found, _, _ = socket.recv_fds(channel, 1, 1)
        self._shared = np.frombuffer(mmap.mmap(found[0], 0, prot=mmap.PROT_READ), np.uint8)[: np.prod(shape)]
        self._shared = self._shared.reshape(shape)
        os.close(found[0])

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        if self._shape is None:
            return False, self._shared
        if image is None or image.shape != self._shape:
            return True, self._shared.copy()
        np.copyto(image, self._shared)
        return True, image

    def get(self, propId: int, /) -> float:
        return self._known.get(propId, 0.0)

    def release(self) -> None:
        self._child.close()


class _Nursery:
    """The process that forks captures; another where that has gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start()
        atexit.register(self.close)

    def _start(self) -> None:
        self._orders, theirs = socket.socketpair()
        # No threads of BLAS there, since it forks; the same modules as here, wherever they lie.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        program = f"import sys; sys.path[:] = {sys.path!r}; from edgesparse.stream.nursery import main; main()"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", program], stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment
            )

    def child(self) -> Connection:
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            try:
                socket.send_fds(self._orders, [b"c"], [theirs.fileno()])
            except OSError:
                self.close()
                self._start()
                socket.send_fds(self._orders, [b"c"], [theirs.fileno()])
        return Connection(ours.detach())

    def close(self) -> None:
        self._orders.close()
        self._process.wait()


_one = threading.Lock()
_started = functools.cache(_Nursery)


def _nursery() -> _Nursery:
    """The only one: cameras may be opened in many threads at once."""
    with _one:
        return _started()
