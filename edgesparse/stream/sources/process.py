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
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait

import cv2
import numpy as np

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.captures import OPEN_SECONDS, READ_SECONDS, Opener

SOONEST_AGAIN, LONGEST_OPEN = 0.75, 3.0
"""Seconds after which something that was open before is asked again; and that it may take to open again."""
AT_ONCE = 3
"""Most that are asked beside each other."""
_FEW = 4
"""Frames that may take one and a half waits together."""


class Apart:
    """Opens what `opener` opens, which must be picklable, in a process of its own; a Capture a call.

    How long it waits: at first as long as OpenCV does. Once it knows how long opening takes, it asks again beside what
    gives no answer, and what answers first counts: who was given rubbish for an answer waits in vain, who is only slow
    is not cut off. Calls in vain let more time pass between asking. Raises CameraUnavailable.
    """

    def __init__(self, opener: Opener, name: str, read_seconds: float = READ_SECONDS) -> None:
        self._opener, self._name, self._read_seconds = opener, name, read_seconds
        self._again = self._longest = 2.0 * OPEN_SECONDS

    def __call__(self) -> Remote:
        end = time.monotonic() + self._longest
        asked: list[Remote] = []
        try:
            while (now := time.monotonic()) < end:
                if len(asked) == AT_ONCE:
                    asked.pop(0).release()
                asked.append(Remote(self._opener, self._name, self._read_seconds))
                if found := _first(asked, min(now + self._again, end)):
                    self._learn(time.monotonic() - found.asked)
                    return found
        finally:
            for remote in asked:
                remote.release()
        self._again = min(1.25 * self._again, self._longest)
        raise CameraUnavailable(f"{self._name} gives no answer for {self._longest:.1f} s")

    def _learn(self, took: float) -> None:
        most = 2.0 * OPEN_SECONDS
        self._again = min(max(SOONEST_AGAIN, 2 * took), most)
        self._longest = min(max(LONGEST_OPEN, 4 * took), most)


def _first(asked: list[Remote], until: float) -> Remote | None:
    """Take out of `asked` what has opened first, None when nothing has `until` then. Those that fail are taken out
    too; once all have failed, raises the last one's CameraUnavailable."""
    while (left := until - time.monotonic()) > 0:
        ready = wait([remote.child for remote in asked], left)
        for remote in [remote for remote in asked if remote.child in ready]:
            asked.remove(remote)
            try:
                remote.answer()
            except CameraUnavailable:
                if not asked:
                    raise
            else:
                return remote
    return None


class Remote:
    """A capture in another process, once that has given its `answer`. `release` ends that, whatever it hangs in."""

    def __init__(self, opener: Opener, name: str, read_seconds: float) -> None:
        self._name, self._read_seconds = name, read_seconds
        self._waits = deque[float](maxlen=32)
        self._shape: tuple[int, ...] | None = None
        self._shared: Image = np.empty((0, 0, 3), np.uint8)
        self._known: dict[int, float] = {}
        self.asked = time.monotonic()
        self.child = _nursery().child()
        with suppress(OSError):  # `answer` says that it has gone
            self.child.send(opener)

    def answer(self) -> None:
        """Wait until it is open. Raises CameraUnavailable, and is released then."""
        try:
            answer = self.child.recv()
        except (EOFError, OSError):
            answer = CameraUnavailable(f"{self._name}: what opens it has crashed")
        if isinstance(answer, Exception):
            self.release()
            raise answer
        self._known = {cv2.CAP_PROP_FPS: answer[0], cv2.CAP_PROP_FRAME_COUNT: answer[1]}

    def grab(self) -> bool:
        """Raises SourceError where there is a reason why no more comes."""
        begun, allowed = time.monotonic(), self._allowed()
        try:
            self.child.send_bytes(b"n")
            while self.child.poll(allowed):
                said = self.child.recv()
                if isinstance(said, SourceError):
                    raise said
                if said is None:
                    return False
                if isinstance(said[-1], int):
                    self._map(said)
                    continue
                self._shape = said[1]
                self._waits.append(time.monotonic() - begun)
                return True
        except (EOFError, OSError):
            return False
        if allowed < self._read_seconds:
            raise SourceError(f"{_FEW - 1} frames in {self._waited + allowed:.1f} s")
        raise SourceError(f"no frame for {allowed:.1f} s")

    def _allowed(self) -> float:
        """Seconds to wait for the next frame.

        Four in a row take one and a half times `read_seconds` at most, unless this camera's frames are that rare:
        rubbish pushes the last good image out of the decoder late, and some of it looks like images.
        """
        if len(self._waits) < 2 * _FEW:
            return self._read_seconds
        usual = sorted(self._waits)[len(self._waits) // 2]
        return max(0.0, min(self._read_seconds, max(1.5 * self._read_seconds, 6 * usual) - self._waited))

    @property
    def _waited(self) -> float:
        """Seconds that the last frames before the next of _FEW took."""
        return sum(list(self._waits)[1 - _FEW :])

    def _map(self, shape: tuple[int, ...]) -> None:
        """What comes next is a file with the shared image."""
        with socket.socket(fileno=os.dup(self.child.fileno())) as channel:
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
        self.child.close()


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
        program = f"import sys; sys.path[:] = {sys.path!r}; from edgesparse.stream.sources.nursery import main; main()"
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
