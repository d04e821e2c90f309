"""Live sources: a thread captures into slots that are used again, and the newest frame wins."""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
import weakref

import cv2

from edgesparse.errors import SourceError
from edgesparse.stream.captures import OPEN_SECONDS, READ_SECONDS, Capture, Opener, frame_rate
from edgesparse.stream.frames import Frame, Image, Source

log = logging.getLogger("edgesparse.stream")

PAUSE_FIRST, PAUSE_LONGEST = 0.2, 5.0
# The drivers' own limits come first (opening has two steps, each with its limit); these are the net below them.
OPEN_LIMIT = 2 * OPEN_SECONDS + 1.0
FIRST_FRAME_LIMIT = 5.0
FRAME_LIMIT = READ_SECONDS + 0.5
CLOSE_SECONDS = 1.0
EXIT_SECONDS = OPEN_SECONDS + 1.0
MOST_STUCK = 3


class Slots:
    """Three pictures: one being written, the newest, one being read. Not locked: its user holds a lock."""

    def __init__(self) -> None:
        self._images: list[Image | None] = [None, None, None]
        self._writing, self._newest, self._reading = 0, 1, 2
        self._time_ns = self._index = 0
        self.fresh = False
        """Whether the newest has not been taken yet."""

    @property
    def spare(self) -> Image | None:
        """The picture to write into; None before there is one."""
        return self._images[self._writing]

    def renew(self) -> None:
        """Give the picture being written away, to a writer that is stuck with it."""
        self._images[self._writing] = None

    def publish(self, image: Image, time_ns: int, index: int) -> bool:
        """Make `image`, the spare or one of another size, the newest; whether an untaken one is dropped for it."""
        self._images[self._writing] = image
        self._writing, self._newest = self._newest, self._writing
        self._time_ns, self._index = time_ns, index
        dropped, self.fresh = self.fresh, True
        return dropped

    def take(self, name: str) -> Frame:
        """The newest frame; its picture stays untouched until the next call."""
        self._reading, self._newest = self._newest, self._reading
        self.fresh = False
        image = self._images[self._reading]
        assert image is not None
        return Frame(image, self._time_ns, self._index, name)


class Live(Source):
    """The newest frame of something that never ends.

    `opener` opens it, raising CameraUnavailable when it isn't there: at once here; later, a source that fails or
    gives no frame for two seconds is opened again, with growing pauses, for as long as it takes. `capture`: what
    `opener` gave, where that was called already.
    """

    live = True

    def __init__(self, name: str, opener: Opener, capture: Capture | None = None) -> None:
        capture = capture or opener()
        self.name = name
        self.fps = frame_rate(capture)
        self._opener = opener
        self._slots = Slots()
        self._changed = threading.Condition()
        self._captured = 0
        self._lost_at: float | None = None
        self._failure: Exception | None = None
        self._closed = False
        self._stuck: list[_Worker] = []
        self._worker = _Worker(self, capture)
        self._worker.start()

    def read(self) -> Frame | None:
        with self._changed:
            while not self._slots.fresh:
                if self._failure is not None:
                    raise SourceError(f"{self.name}: capture failed: {self._failure}") from self._failure
                if self._closed:
                    return None
                left = self._worker.deadline - time.monotonic()
                if left <= 0:
                    self._replace_worker()
                else:
                    self._changed.wait(None if math.isinf(left) else left)
            return self._slots.take(self.name)

    def reopen(self) -> None:
        with self._changed:
            if not self._closed:
                self._replace_worker()

    def close(self) -> None:
        with self._changed:
            self._closed = self._worker.leave = True
            self._changed.notify_all()
        self._worker.join(CLOSE_SECONDS)

    def _replace_worker(self) -> None:
        """Leave the capture thread alone with a driver that doesn't come back, and start another."""
        self._note_lost()
        self._stuck = [worker for worker in self._stuck if worker.is_alive()]
        if len(self._stuck) == MOST_STUCK:
            self._worker.deadline = math.inf
            return
        self._stuck.append(self._worker)
        self._worker.leave = True
        self._slots.renew()
        self._changed.notify_all()
        self._worker = _Worker(self, None)
        self._worker.start()

    # What follows runs in the capture thread.

    def _capture_frames(self, worker: _Worker) -> None:
        """The life of a capture thread: open, capture, and again."""
        pause = PAUSE_FIRST
        try:
            while not worker.leave:
                if self._open(worker) and self._pump(worker):
                    pause = PAUSE_FIRST
                worker.release()
                with self._changed:
                    if not worker.leave:
                        self._note_lost()
                        worker.deadline = math.inf
                        self._changed.wait_for(lambda: worker.leave, pause)
                pause = min(2 * pause, PAUSE_LONGEST)
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            worker.release()

    def _open(self, worker: _Worker) -> bool:
        if worker.capture is None:
            self._allow(worker, OPEN_LIMIT)
            try:
                worker.capture = self._opener()
            except SourceError as error:
                log.debug("%s", error)
                return False
        self._allow(worker, FIRST_FRAME_LIMIT)
        return True

    def _allow(self, worker: _Worker, seconds: float) -> None:
        with self._changed:
            worker.deadline = time.monotonic() + seconds
            self._changed.notify_all()

    def _pump(self, worker: _Worker) -> bool:
        """Capture until that fails; whether it gave any frame."""
        capture, spare, any_frame = worker.capture, self._slots.spare, False
        assert capture is not None
        try:
            while capture.grab() and not worker.leave:
                time_ns = time.monotonic_ns()
                ok, image = capture.retrieve(spare)
                with self._changed:
                    if worker.leave:
                        break
                    if ok and image.size:
                        any_frame = True
                        self._store(image, time_ns)
                        worker.deadline = time.monotonic() + FRAME_LIMIT
                    elif not self._skip(worker):
                        break
                    spare = self._slots.spare
        except cv2.error as error:
            log.debug("%s: %s", self.name, error)
        return any_frame

    def _store(self, image: Image, time_ns: int) -> None:
        self.dropped += self._slots.publish(image, time_ns, self._captured)
        self._captured += 1
        if self._lost_at is not None:
            log.info("%s is back after %.1f s", self.name, time.monotonic() - self._lost_at)
            self._lost_at = None
            self.reopened += 1
        self._changed.notify_all()

    def _skip(self, worker: _Worker) -> bool:
        """Count a frame without pixels; whether to wait for a better one."""
        self._captured += 1
        self.dropped += 1
        return time.monotonic() < worker.deadline

    def _note_lost(self) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            log.warning("%s gives no frames; opening it again until it does", self.name)


class _Worker(threading.Thread):
    """One capture thread. It captures until `leave`; a driver may keep it from noticing for long."""

    def __init__(self, source: Live, capture: Capture | None) -> None:
        super().__init__(name=f"capture {source.name}", target=source._capture_frames, args=(self,), daemon=True)
        self.capture = capture
        self.leave = False
        _workers.add(self)
        self.deadline = time.monotonic() + FIRST_FRAME_LIMIT
        """When its present wait has taken too long, on the monotonic clock."""

    def release(self) -> None:
        if self.capture is not None:
            self.capture.release()
            self.capture = None


_workers: weakref.WeakSet[_Worker] = weakref.WeakSet()


@atexit.register
def _wait_for_workers() -> None:
    """Python that ends under a thread inside OpenCV ends with an abort: give each as long as its driver may take."""
    until = time.monotonic() + EXIT_SECONDS
    workers = [worker for worker in _workers if worker.is_alive()]
    for worker in workers:
        worker.leave = True
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
