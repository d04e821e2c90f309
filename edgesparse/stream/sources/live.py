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
from edgesparse.stream.frames import Frame, Image, Memory
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.captures import OPEN_SECONDS, Capture, Opener, frame_rate, read_seconds
from edgesparse.stream.sources.process import Apart
from edgesparse.stream.sources.slots import Slots, kept, pageable
from edgesparse.stream.sources.still import Stillness
from edgesparse.wording import redact

log = logging.getLogger("edgesparse.stream")

PAUSE_FIRST, PAUSE_LONGEST = 0.1, 0.5
# The drivers' own limits come first (opening has two steps, each with its limit); these are the net below them.
OPEN_LIMIT = 2 * OPEN_SECONDS + 1.0
FIRST_FRAME_LIMIT = 5.0
FRAME_SLACK = 0.3
CLOSE_SECONDS = 1.0
EXIT_SECONDS = OPEN_SECONDS + 1.0
MOST_STUCK = 3


class Live(Source):
    """The newest frame of something that never ends.

    `opener` opens it, raising CameraUnavailable when it isn't there: at once here, unless `patient`; later, a source
    that fails, gives no frame for two seconds, or the same image for `frozen` seconds (0: as long as it likes), is
    opened again, with growing pauses, for as long as it takes; so is a patient one after an error of our own, which
    `read` raises else. `capture`: what `opener` gave, where that was called already.
    """

    live = True

    def __init__(
        self, name: str, opener: Opener, capture: Capture | None = None, *, patient: bool = False, frozen: float = 0.0
    ) -> None:
        if capture is None and not patient:
            capture = opener()
        self.name = name
        self.fps = 0.0 if capture is None else frame_rate(capture)
        self.state, self.since_ns = "opening", time.monotonic_ns()
        self._opener, self._patient, self._frozen = opener, patient, frozen
        self._still = Stillness()
        self._slots = Slots()
        self._memory: Memory = pageable
        self._changed = threading.Condition()
        self._captured = 0
        self._shape: tuple[int, ...] = ()
        self._failure: Exception | None = None
        self._closed = False
        self._closes_by = 0.0
        self._stuck: list[_Worker] = []
        self._worker = _Worker(self, capture)
        self._worker.start()

    def read(self) -> Frame | None:
        with self._changed:
            while (frame := self._take()) is None and not self._closed:
                left = self._worker.deadline - time.monotonic()
                if left <= 0:
                    self._replace_worker(self._silence())
                else:
                    self._changed.wait(None if math.isinf(left) else left)
            return frame

    def poll(self) -> Frame | None:
        with self._changed:
            return self._take()

    def _take(self) -> Frame | None:
        if self._slots.fresh and not self._closed:
            return self._slots.take(self.name)
        if self._failure is not None:
            raise SourceError(f"{self.name}: capture failed: {self._failure}") from self._failure
        return None

    def lend(self, most: int, memory: Memory) -> None:
        with self._changed:
            if (most, memory) != (self.lends, self._memory):
                self.lends, self._memory = most, memory
                self._slots.move(most, memory)
                self._worker.spare = None  # what is being written there is copied when it is whole

    def watch(self) -> None:
        with self._changed:
            if not self._closed and time.monotonic() >= self._worker.deadline:
                self._replace_worker(self._silence())

    def reopen(self) -> None:
        with self._changed:
            if not self._closed:
                self._replace_worker("opened again on demand")

    def leave(self) -> None:
        with self._changed:
            if not self._closed:
                self._closed = self._worker.leave = True
                self._closes_by = time.monotonic() + CLOSE_SECONDS
                self._changed.notify_all()

    def close(self) -> None:
        self.leave()
        self._worker.join(max(0.0, self._closes_by - time.monotonic()))

    def _silence(self) -> str:
        return "no frame in time" if self.state == "live" else "no answer in time"

    def _replace_worker(self, why: str) -> None:
        """Leave the capture thread alone with a driver that doesn't come back, and start another."""
        self._note_lost(why)
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
                why = self._once(worker)
                pause = PAUSE_FIRST if worker.any_frame else pause
                with self._changed:
                    if not worker.leave:
                        self._note_lost(why)
                        worker.deadline = math.inf
                        self._changed.wait_for(lambda: worker.leave, pause)
                pause = min(2 * pause, PAUSE_LONGEST)
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
                self._wake()

    def _once(self, worker: _Worker) -> str:
        """Open and capture until that ends; why it did."""
        worker.any_frame = False
        try:
            return self._open(worker) or self._pump(worker)
        except Exception as error:
            if not self._patient:
                raise
            return f"capture failed: {redact(repr(error))}"
        finally:
            worker.release()

    def _open(self, worker: _Worker) -> str:
        """Why it could not be opened; empty when it could."""
        if worker.capture is None:
            self._allow(worker, OPEN_LIMIT)
            try:
                worker.capture = self._opener()
            except (SourceError, cv2.error) as error:
                return str(error)
            self.fps = frame_rate(worker.capture)
        self._allow(worker, FIRST_FRAME_LIMIT)
        return ""

    def _allow(self, worker: _Worker, seconds: float) -> None:
        with self._changed:
            worker.deadline = time.monotonic() + seconds
            self._changed.notify_all()

    def _pump(self, worker: _Worker) -> str:
        """Capture until that ends; why it does."""
        capture, patience = worker.capture, read_seconds(self.fps)
        assert capture is not None
        worker.opened_ns = time.monotonic_ns()
        try:
            while not worker.leave:
                asked_ns = time.monotonic_ns()
                there, time_ns = capture.grab(), time.monotonic_ns()
                # A decoder that has waited in vain gives what it had held back, an image a wait.
                if time_ns - asked_ns >= 1e9 * patience and (worker.any_frame or not there):
                    return f"no frame for {patience:.1f} s"
                if not there:
                    return "the stream ended"
                if why := self._take_in(worker, capture, time_ns, patience):
                    return why
        except (SourceError, cv2.error) as error:
            return " ".join(str(error).split())
        return ""

    def _take_in(self, worker: _Worker, capture: Capture, time_ns: int, patience: float) -> str:
        """Make what was grabbed the newest frame; why there is to be no more, empty where there is."""
        ok, image = capture.retrieve(worker.spare)
        ok = ok and image.size > 0
        if ok and self._is_old(image, time_ns):
            if time_ns - worker.opened_ns < 1e9 * self._frozen:  # opened again, it may yet move
                return ""
            return f"the same image for {self._still.seconds(time_ns):.1f} s"
        with self._changed:
            if worker.leave:
                return ""
            if ok:
                worker.any_frame = True
                self._store(kept(image, worker.spare, self._memory), time_ns)
                worker.deadline = time.monotonic() + patience + FRAME_SLACK
            elif not self._skip(worker):
                return "frames without an image"
            worker.spare = self._slots.spare
        return ""

    def _is_old(self, image: Image, time_ns: int) -> bool:
        return self._frozen > 0 and self._still.see(image, time_ns, self._frozen)

    def _store(self, image: Image, time_ns: int) -> None:
        self.dropped += self._slots.publish(image, time_ns, self._captured)
        self._captured += 1
        self.newest_ns = time_ns
        if self.state != "live":
            self._note_back(time_ns)
        if image.shape != self._shape:
            if self._shape:
                log.info("%s: frames are now %dx%d", self.name, image.shape[1], image.shape[0])
            self._shape = image.shape
        self._changed.notify_all()
        self._wake()

    def _wake(self) -> None:
        if self.awake is not None:
            self.awake.set()

    def _skip(self, worker: _Worker) -> bool:
        """Count a frame without pixels; whether to wait for a better one."""
        self._captured += 1
        self.dropped += 1
        return time.monotonic() < worker.deadline

    def _note_lost(self, why: str) -> None:
        if self.state != "away":
            log.warning("%s gives no frames (%s); opening it again until it does", self.name, why)
            self.state, self.since_ns = "away", time.monotonic_ns()
        self.why = why

    def _note_back(self, time_ns: int) -> None:
        if self.state == "away":
            log.info("%s is back after %.1f s", self.name, (time_ns - self.since_ns) / 1e9)
            self.reopened += 1
        self.state, self.since_ns, self.why = "live", time_ns, ""


class _Worker(threading.Thread):
    """One capture thread. It captures until `leave`; a driver may keep it from noticing for long."""

    def __init__(self, source: Live, capture: Capture | None) -> None:
        super().__init__(name=f"capture {source.name}", target=source._capture_frames, args=(self,), daemon=True)
        self.capture = capture
        self.leave = self.any_frame = False
        self.spare = source._slots.spare
        """The image to write into."""
        self.opened_ns = 0
        self.apart = isinstance(source._opener, Apart)
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
    """Python that ends under a thread inside OpenCV ends with an abort: give each as long as its driver may take. Those
    whose OpenCV is in another process only wait for that."""
    until = time.monotonic() + EXIT_SECONDS
    workers = [worker for worker in _workers if worker.is_alive() and not worker.apart]
    for worker in workers:
        worker.leave = True
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
