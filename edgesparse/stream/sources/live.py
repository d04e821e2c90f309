"""Live sources: a thread captures into reused images, and the newest frame wins."""

from __future__ import annotations

import logging
import math
import threading
import time

import cv2

from edgesparse.errors import AuthenticationFailed, BackendUnavailable, SourceError
from edgesparse.redaction import redact_text
from edgesparse.stream.frames import Allocator, Frame, Image
from edgesparse.stream.sources import capture_worker
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.capture import (
    KEY_FRAME_SECONDS,
    OPEN_SECONDS,
    Capture,
    Opener,
    WaitingForKeyFrame,
    frame_rate,
    read_seconds,
)
from edgesparse.stream.sources.capture_worker import CaptureWorker
from edgesparse.stream.sources.frame_buffers import FrameBuffers, allocate_pageable, stored
from edgesparse.stream.sources.frozen import FreezeDetector
from edgesparse.stream.sources.isolated import IsolatedOpener

log = logging.getLogger("edgesparse.stream")

# The drivers' own time limits come first; opening has two steps, each with a limit. These catch what exceeds them.
OPEN_LIMIT = 2 * OPEN_SECONDS + 1.0
FRAME_SLACK = 0.3
CLOSE_SECONDS = 1.0
MOST_STUCK = 3
RECHECK_SECONDS = 1.0
"""Seconds until another thread is tried again where none could be started."""


class LiveSource(Source):
    """The newest frame of an endless source. `opener` opens it. A source that is not available at the start raises
    CameraUnavailable, unless `patient`. Later, a source that fails, delivers no frame for two seconds, or the same
    image for `frozen` seconds (0: no limit) is reopened, with growing pauses, for as long as it takes. A patient source
    is also reopened after an unexpected exception, which `read` otherwise raises. `capture` is the result of `opener`
    if it was called already.
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
        self._freezes = FreezeDetector()
        self._buffers = FrameBuffers()
        self._allocate: Allocator = allocate_pageable
        self._changed = threading.Condition()
        self._captured = 0
        self._shape: tuple[int, ...] = ()
        self._lost_ns = 0
        """When it went away; 0 if it is not away."""
        self._failure: Exception | None = None
        self._closed = False
        self._closes_by = 0.0
        self._stuck: list[CaptureWorker] = []
        self._worker = self._start_worker(capture)

    def _start_worker(self, capture: Capture | None) -> CaptureWorker:
        isolated = isinstance(self._opener, IsolatedOpener)
        return CaptureWorker(self.name, self._capture_frames, capture, self._buffers.spare, isolated)

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
        if self._buffers.fresh and not self._closed:
            return self._buffers.take(self.name)
        if self._failure is not None:
            raise SourceError(f"{self.name}: capture failed: {self._failure}") from self._failure
        return None

    def lend(self, most: int, memory: Allocator) -> None:
        with self._changed:
            if (most, memory) != (self.lends, self._allocate):
                self.lends, self._allocate = most, memory
                self._buffers.move(most, memory)
                self._worker.spare = None  # an image being written there is copied once it is complete

    def watch(self) -> None:
        with self._changed:
            if not self._closed and time.monotonic() >= self._worker.deadline:
                self._replace_worker(self._silence())

    def reopen(self) -> None:
        with self._changed:
            if not self._closed:
                self._replace_worker("reopened on request")

    def leave(self) -> None:
        with self._changed:
            if not self._closed:
                self._closed = True
                self._worker.leave()
                self._closes_by = time.monotonic() + CLOSE_SECONDS
                self._changed.notify_all()

    def close(self) -> None:
        self.leave()
        self._worker.join(max(0.0, self._closes_by - time.monotonic()))

    def _silence(self) -> str:
        return "no frame in time" if self.state == "live" else "no answer in time"

    def _replace_worker(self, why: str) -> None:
        """Abandon a capture thread whose driver does not return, and start another."""
        self._note_lost(why)
        self._stuck = [worker for worker in self._stuck if worker.is_alive()]
        abandoned = self._worker
        try:
            if len(self._stuck) == MOST_STUCK:
                raise BackendUnavailable(f"the driver returns from none of {MOST_STUCK + 1} attempts")
            self._buffers.abandon_spare()
            self._worker = self._start_worker(None)
        except BackendUnavailable as error:
            abandoned.hangs(str(error))
            abandoned.deadline = time.monotonic() + RECHECK_SECONDS
            return
        abandoned.leave()
        self._stuck.append(abandoned)
        self._changed.notify_all()

    # The following runs in the capture thread.

    def _capture_frames(self, worker: CaptureWorker) -> None:
        """Open, capture, repeat. Raises what a driver should not, so that the thread is restarted and its state tells
        why; a source that is not patient passes it to `read` and ends the thread.
        """
        while not worker.leaving:
            try:
                why = self._open_and_capture(worker)
            except Exception as error:
                self._note_failure(worker, error)
                raise
            self._note_end(worker, why)
            worker.pause(worker.next_pause())

    def _note_end(self, worker: CaptureWorker, why: str) -> None:
        with self._changed:
            if not worker.leaving:
                self._note_lost(why)
                worker.deadline = math.inf

    def _note_failure(self, worker: CaptureWorker, error: Exception) -> None:
        if self._patient or worker.leaving:
            self._note_end(worker, f"capture failed: {redact_text(repr(error))}")
            return
        worker.leave()
        with self._changed:
            self._failure = error
            self._changed.notify_all()
            self._wake()

    def _open_and_capture(self, worker: CaptureWorker) -> str:
        """Return why capturing ended."""
        worker.any_frame = worker.refused = False
        try:
            return self._open(worker) or self._pump(worker)
        finally:
            worker.release()

    def _open(self, worker: CaptureWorker) -> str:
        """Return why it could not be opened; an empty string if it could."""
        if worker.capture is None:
            self._allow(worker, OPEN_LIMIT)
            try:
                worker.capture = self._opener()
            except (SourceError, cv2.error) as error:
                worker.refused = isinstance(error, AuthenticationFailed)
                return f"{error}; retrying in a few minutes" if worker.refused else str(error)
            self.fps = frame_rate(worker.capture)
        self._allow(worker, capture_worker.FIRST_FRAME_LIMIT)
        return ""

    def _allow(self, worker: CaptureWorker, seconds: float) -> None:
        with self._changed:
            worker.deadline = time.monotonic() + seconds
            self._changed.notify_all()

    def _pump(self, worker: CaptureWorker) -> str:
        """Capture until it ends. Returns why."""
        capture, patience = worker.capture, read_seconds(self.fps)
        assert capture is not None
        worker.opened_ns = time.monotonic_ns()
        try:
            while not worker.leaving:
                requested_ns = time.monotonic_ns()
                try:
                    grabbed, time_ns = capture.grab(), time.monotonic_ns()
                except WaitingForKeyFrame:
                    if time.monotonic_ns() - worker.opened_ns > 1e9 * KEY_FRAME_SECONDS:
                        return f"no key frame for {KEY_FRAME_SECONDS:.0f} s"
                    self._note_waiting(worker)
                    continue
                # A decoder that has waited in vain releases the images that it held back, one per wait.
                if time_ns - requested_ns >= 1e9 * patience and (worker.any_frame or not grabbed):
                    return f"no frame for {patience:.1f} s"
                if not grabbed:
                    return "the stream ended"
                if why := self._take_in(worker, capture, time_ns, patience):
                    return why
        except (SourceError, cv2.error) as error:
            return " ".join(str(error).split())
        return ""

    def _take_in(self, worker: CaptureWorker, capture: Capture, time_ns: int, patience: float) -> str:
        """Make the grabbed image the newest frame. Returns why no more are to be captured, or an empty string."""
        decoded, image = capture.retrieve(worker.spare)
        decoded = decoded and image.size > 0
        if decoded and self._frozen > 0 and self._freezes.is_frozen(image, time_ns, self._frozen):
            if time_ns - worker.opened_ns < 1e9 * self._frozen:  # after reopening, images may still start to change
                return ""
            return f"the same image for {self._freezes.seconds(time_ns):.1f} s"
        with self._changed:
            if worker.leaving:
                return ""
            if decoded:
                worker.any_frame = True
                self._store(stored(image, worker.spare, self._allocate), time_ns)
                worker.deadline = time.monotonic() + patience + FRAME_SLACK
            elif not self._skip(worker):
                return "frames without an image"
            worker.spare = self._buffers.spare
        return ""

    def _store(self, image: Image, time_ns: int) -> None:
        self.dropped += self._buffers.publish(image, time_ns, self._captured)
        self._captured += 1
        self.newest_ns = time_ns
        if self.state != "live":
            self._note_live(time_ns)
        if image.shape != self._shape:
            if self._shape:
                log.info("%s: frames are now %dx%d", self.name, image.shape[1], image.shape[0])
            self._shape = image.shape
        self._changed.notify_all()
        self._wake()

    def _wake(self) -> None:
        if self.awake is not None:
            self.awake.set()

    def _skip(self, worker: CaptureWorker) -> bool:
        """Count a frame without pixels. Returns whether to wait for the next one."""
        self._captured += 1
        self.dropped += 1
        return time.monotonic() < worker.deadline

    def _note_lost(self, why: str) -> None:
        if not self._lost_ns:
            log.warning("%s delivers no frames (%s); reopening it until it does", self.name, why)
            self._lost_ns = time.monotonic_ns()
        if self.state != "away":
            self.state, self.since_ns = "away", time.monotonic_ns()
        self.why = why

    def _note_waiting(self, worker: CaptureWorker) -> None:
        with self._changed:
            worker.deadline = time.monotonic() + capture_worker.FIRST_FRAME_LIMIT
            if self.state != "waiting" and not worker.leaving:
                log.info("%s is waiting for a key frame", self.name)
                self.state, self.since_ns, self.why = "waiting", time.monotonic_ns(), "waiting for a key frame"
            self._changed.notify_all()

    def _note_live(self, time_ns: int) -> None:
        if self._lost_ns:
            log.info("%s is back after %.1f s", self.name, (time_ns - self._lost_ns) / 1e9)
            self.reopened += 1
        self._lost_ns = 0
        self.state, self.since_ns, self.why = "live", time_ns, ""
