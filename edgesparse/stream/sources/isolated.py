"""Captures in separate processes: this process's side. fork_server.py is the other side."""

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
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edgesparse.errors import AuthenticationFailed, CameraUnavailable, SourceError
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.capture import OPEN_SECONDS, READ_SECONDS, Opener, WaitingForKeyFrame

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SOONEST_RETRY, LONGEST_OPEN = 0.75, 3.0
"""Seconds after which an address that was open before is tried again in parallel, and that reopening may take."""
MOST_ATTEMPTS = 3
"""Most attempts in parallel."""
_FEW = 4
"""Frames that may together take one and a half times the wait."""


class IsolatedOpener:
    """Opens what `opener` opens, which must be picklable, in a separate process for each call. At first it waits as
    long as OpenCV does. Once it knows how long opening takes, it starts another attempt in parallel to one without an
    answer, and the first answer counts: an attempt that received a garbled answer waits forever, but one that is only
    slow is not cut off. Failed calls let more time pass between attempts. Raises CameraUnavailable.
    """

    def __init__(self, opener: Opener, name: str, read_seconds: float = READ_SECONDS) -> None:
        self._opener, self._name, self._read_seconds = opener, name, read_seconds
        self._retry = self._longest = 2.0 * OPEN_SECONDS

    def __call__(self) -> IsolatedCapture:
        end = time.monotonic() + self._longest
        attempts: list[IsolatedCapture] = []
        try:
            while (now := time.monotonic()) < end:
                if len(attempts) == MOST_ATTEMPTS:
                    attempts.pop(0).release()
                attempts.append(IsolatedCapture(self._opener, self._name, self._read_seconds))
                if capture := _first_answer(attempts, min(now + self._retry, end)):
                    self._learn(time.monotonic() - capture.started)
                    return capture
        finally:
            for attempt in attempts:
                attempt.release()
        self._retry = min(1.25 * self._retry, self._longest)
        raise CameraUnavailable(f"{self._name} does not answer for {self._longest:.1f} s")

    def _learn(self, seconds: float) -> None:
        longest = 2.0 * OPEN_SECONDS
        self._retry = min(max(SOONEST_RETRY, 2 * seconds), longest)
        self._longest = min(max(LONGEST_OPEN, 4 * seconds), longest)


def _first_answer(attempts: list[IsolatedCapture], until: float) -> IsolatedCapture | None:
    """Remove and return the first of `attempts` that opens; None if none has opened by `until`. Failed attempts are
    removed too; raises the CameraUnavailable of the last, and AuthenticationFailed immediately.
    """
    from multiprocessing.connection import wait

    while (left := until - time.monotonic()) > 0:
        ready = wait([attempt.child for attempt in attempts], left)
        for attempt in [attempt for attempt in attempts if attempt.child in ready]:
            attempts.remove(attempt)
            try:
                attempt.wait_for_answer()
            except AuthenticationFailed:
                raise
            except CameraUnavailable:
                if not attempts:
                    raise
            else:
                return attempt
    return None


class IsolatedCapture:
    """A Capture in another process, usable after `wait_for_answer`. `release` ends that process, wherever it hangs."""

    def __init__(self, opener: Opener, name: str, read_seconds: float) -> None:
        self._name, self._read_seconds = name, read_seconds
        self._waits = deque[float](maxlen=32)
        """Seconds that each of the last frames took."""
        self._shape: tuple[int, ...] | None = None
        self._shared: Image = np.empty((0, 0, 3), np.uint8)
        self._properties: dict[int, float] = {}
        self.started = time.monotonic()
        self.child = _fork_server().connect()
        with suppress(OSError):  # `wait_for_answer` reports that it is gone
            self.child.send(opener)

    def wait_for_answer(self) -> None:
        """Wait until it is open. On failure it is released, and CameraUnavailable or SourceError is raised."""
        try:
            answer = self.child.recv()
        except (EOFError, OSError):
            answer = CameraUnavailable(f"{self._name}: the process that opens it has crashed")
        if isinstance(answer, Exception):
            self.release()
            raise answer
        self._properties = {cv2.CAP_PROP_FPS: answer[0], cv2.CAP_PROP_FRAME_COUNT: answer[1]}

    def grab(self) -> bool:
        """Return False once the capture has ended. Raises SourceError with the reason why there are no more frames, and
        WaitingForKeyFrame."""
        started, allowed = time.monotonic(), self._allowed()
        try:
            self.child.send_bytes(b"n")
            while self.child.poll(allowed):
                message = self.child.recv()
                if isinstance(message, SourceError):
                    raise message
                if message is None:
                    return False
                if message[0] == "data":
                    raise WaitingForKeyFrame
                if isinstance(message[-1], int):
                    self._map(message)
                    continue
                self._shape = message[1]
                self._waits.append(time.monotonic() - started)
                return True
        except (EOFError, OSError):
            return False
        if allowed < self._read_seconds:
            raise SourceError(f"{_FEW - 1} frames in {self._waited + allowed:.1f} s")
        raise SourceError(f"no frame for {allowed:.1f} s")

    def _allowed(self) -> float:
        """Return the seconds to wait for the next frame. Four in a row take at most one and a half times
        `read_seconds`, unless this camera's frames are rarer: garbage pushes the last good image out of the decoder
        late, and some of it looks like images.
        """
        if len(self._waits) < 2 * _FEW:
            return self._read_seconds
        usual = sorted(self._waits)[len(self._waits) // 2]
        return max(0.0, min(self._read_seconds, max(1.5 * self._read_seconds, 6 * usual) - self._waited))

    @property
    def _waited(self) -> float:
        """Return the seconds that the last _FEW - 1 frames took."""
        return sum(list(self._waits)[1 - _FEW :])

    def _map(self, shape: tuple[int, ...]) -> None:
        """Receive and map the shared image's file, which comes next."""
        with socket.socket(fileno=os.dup(self.child.fileno())) as channel:
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        self._shared = np.frombuffer(mmap.mmap(descriptors[0], 0, prot=mmap.PROT_READ), np.uint8)[: np.prod(shape)]
        self._shared = self._shared.reshape(shape)
        os.close(descriptors[0])

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        if self._shape is None:
            return False, self._shared
        if image is None or image.shape != self._shape:
            return True, self._shared.copy()
        np.copyto(image, self._shared)
        return True, image

    def get(self, propId: int, /) -> float:
        return self._properties.get(propId, 0.0)

    def release(self) -> None:
        self.child.close()


class _ForkServer:
    """The process that forks captures; restarted if it is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start()
        atexit.register(self.close)

    def _start(self) -> None:
        self._orders, theirs = socket.socketpair()
        # No BLAS threads there, since it forks; the same modules as here, wherever they are.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        module = "edgesparse.stream.sources.fork_server"
        program = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main()"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", program], stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment
            )

    def connect(self) -> Connection:
        """Return a connection to a new child."""
        from multiprocessing.connection import Connection

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
        self.process.wait()


_starting = threading.Lock()
_started = functools.cache(_ForkServer)


def _fork_server() -> _ForkServer:
    """Return the only fork server, even if many threads open cameras at the same time."""
    with _starting:
        return _started()
