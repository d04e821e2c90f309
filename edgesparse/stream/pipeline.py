"""The frame loop: newest frames of the cameras -> detector -> sinks, with the time of each stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from edgesparse.closing import Closing
from edgesparse.config import ONLY, Camera
from edgesparse.errors import SourceError
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import Change, Feed, Observer, close_sources, open_feeds, place, track
from edgesparse.stream.frames import Frame
from edgesparse.stream.in_flight import Batch, InFlight, Taken
from edgesparse.stream.interrupts import Interrupts
from edgesparse.stream.requests import Request, Requests
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sources.base import Source
from edgesparse.stream.summary import Record
from edgesparse.stream.summary import Summary as Summary

UPDATE_NS = 250_000_000
"""Longest time between two updates of the cameras' status and the observer, in nanoseconds."""
GAP_NS = 2_000_000
"""How often requests that wait look for a gap between frames, in nanoseconds."""


def run(
    source: Source,
    detector: Detector,
    sinks: Sequence[Sink] = (),
    *,
    limit: int | None = None,
    depth: int | None = None,
) -> Summary:
    """Pass the frames of an open source through the detector to the sinks: a Loop with one camera.

    `limit`: maximum number of frames; `depth`: maximum number of batches in flight. Does not close the source. Raises
    what source, detector and sinks raise.
    """
    settings = Camera(name=ONLY, source=source.name)
    feed = Feed(settings, source, detector.run, detector.spec.classes)
    loop = Loop([feed], detector, sinks, depth=depth)
    try:
        return loop.run(limit)
    finally:
        loop.drop()


class Loop(Closing):
    """Several cameras on one engine.

    Each batch takes the newest frames of as many cameras as the engine holds, starting with those that have waited
    longest. So an engine that is too slow for all is shared evenly, and no frame gets stale.

    While a batch is in flight, the next one is submitted if new frames are available, up to `depth` batches (by
    default, as many as the detector accepts); otherwise the loop waits for the batch. Frames that arrived meanwhile are
    submitted before the sinks get the results. Results are delivered in frame order.

    A context manager that closes the cameras, but not the detector and the sinks. After the first frames it
    allocates nothing of a frame's size. The cameras may be read and replaced from any thread.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        detector: Detector,
        sinks: Sequence[Sink] = (),
        *,
        observer: Observer | None = None,
        stop: threading.Event | None = None,
        depth: int | None = None,
    ) -> None:
        self._detector, self.sinks, self._observer, self._depth = detector, sinks, observer, depth
        self._stop, self._interruptible = stop or threading.Event(), stop is None
        self.feeds = list(feeds)
        """In the recipe's order."""
        self.paused: dict[str, int] = {}
        """Cameras from which no frame is taken, by name, and since when (monotonic). May be changed from any thread."""
        self._waiting = list(feeds)
        """The longest-waiting first."""
        self._awake = threading.Event()
        for feed in feeds:
            feed.source.awake = self._awake
        self._in_flight, self._pause = InFlight(detector, feeds, depth), 0.0
        self.requests = Requests(self._awake)
        """Images that come from no camera."""
        self._record, self._updated_ns = Record(detector.spec.classes), 0
        self._replacing, self._changing = threading.Lock(), threading.Lock()
        self._change: Change | None = None
        self._running = False

    @classmethod
    def of(
        cls,
        cameras: Sequence[Camera],
        detector: Detector,
        sinks: Sequence[Sink] = (),
        *,
        observer: Observer | None = None,
        stop: threading.Event | None = None,
        patient: bool | None = None,
    ) -> Loop:
        """Open the cameras and create their loop. An unavailable camera is waited for if `patient`, otherwise it raises
        CameraUnavailable; by default, the loop waits if there are several cameras. Raises SourceError and ConfigError.
        """
        patient = len(cameras) > 1 if patient is None else patient
        feeds = open_feeds(cameras, detector.run, detector.spec.classes, patient=patient)
        return cls(feeds, detector, sinks, observer=observer, stop=stop)

    def run(self, limit: int | None = None) -> Summary:
        """Run until all sources have ended, `limit` frames are done, a sink is closed, `stop` is set or, without a
        `stop`, Ctrl-C. Frames in flight are still delivered, unless a sink is closed. Returns the summary so far.
        Raises what sources, sinks and detector raise. The cameras stay open, and it may be called again: it continues
        with what was in flight after the frames that failed.
        """
        started, before = time.monotonic(), self._record.frames
        with self._changing:
            self._running = True
        try:
            with Interrupts() if self._interruptible else nullcontext() as interrupts:
                ended = self._run(None if limit is None else before + limit, interrupts)
        except KeyboardInterrupt:
            ended = "interrupted"
        except SourceError:
            while self._in_flight:  # frames from before the error
                self._advance(idle=True)
            raise
        finally:
            self._record.seconds += time.monotonic() - started
            with self._changing:
                self._running = False
                self._apply_change()
        if self._record.frames == 0 and ended == "end of source":
            names = ", ".join(feed.source.name for feed in self.feeds)
            raise SourceError(f"{names} delivered no frame: it is empty or damaged")
        return self._summary(ended)

    def _run(self, limit: int | None, interrupts: Interrupts | None) -> str:
        """Returns why it ended."""
        while limit is None or self._record.frames < limit:
            started, (taken, requests) = time.perf_counter_ns(), self._next_frames(limit, interrupts)
            if taken or requests:
                if interrupts:
                    interrupts.begin()
                self._in_flight.submit(taken, started, requests)
            self._advance(idle=not taken and not requests)
            if any(sink.wants_stop for sink in self.sinks):
                self.drop()
                return "closed"
            if self._in_flight:
                continue
            if interrupts:
                interrupts.end()
            if self._stop.is_set():
                return "stopped"
            if not taken and all(feed.ended for feed in self.feeds) and self.feeds:
                return "end of source"
            self._pause_and_change()
        return "limit"

    def _next_frames(self, limit: int | None, interrupts: Interrupts | None) -> tuple[Taken, Sequence[Request]]:
        """Return new frames and requests; none if those in flight must be finished first."""
        self._update()
        ending = self._stop.is_set() or (interrupts is not None and interrupts.waiting)
        if ending or self._in_flight.full or self._change is not None or self._pause > 0:
            return (), ()
        taken = self._take(limit)
        return taken, self.requests.take(self._in_flight.room(taken))

    def _pause_and_change(self) -> None:
        """Pause if the observer requested it, and switch to a new detector and cameras. Nothing is in flight here."""
        pause, self._pause = self._pause, 0.0
        if pause > 0:
            self._stop.wait(pause)
        if self._change is not None:
            with self._changing:
                self._apply_change()

    def _take(self, limit: int | None) -> list[tuple[Feed, Frame]]:
        """Return as many new frames as the engine holds. Waits a while if there are none and nothing is in flight."""
        self._awake.clear()
        most = self._detector.batch
        if limit is not None and (most := min(most, limit - self._record.frames - self._in_flight.frames)) < 1:
            return []
        now, taken = time.monotonic_ns(), []
        for feed in self._waiting:
            if feed.settings.name not in self.paused and (frame := feed.take(now)) is not None:
                taken.append((feed, frame))
                if len(taken) == most:
                    break
        if taken:
            served = [feed for feed, _ in taken]
            self._waiting = [feed for feed in self._waiting if feed not in served] + served
        elif not self._in_flight and not (self.feeds and all(feed.ended for feed in self.feeds)):
            due = min((feed.due_ns - now for feed in self.feeds if feed.due_ns > now), default=UPDATE_NS)
            if not self.requests or not self._in_flight.room(()):
                self._awake.wait(min(due, GAP_NS if self.requests else UPDATE_NS) / 1e9)
        return taken

    def _advance(self, idle: bool) -> None:
        """Deliver the collected batch. If there is none, collect one, and deliver it immediately if no new frame could
        be submitted before. That way new frames are in the engine while results are delivered.

        `idle`: there are no new frames.
        """
        batch = self._in_flight.collected()
        if batch is None and self._in_flight and (idle or self._in_flight.full):
            self._in_flight.collect()
            batch = self._in_flight.collected() if self._in_flight.full else None
        if batch is not None:
            self._deliver(batch)

    def _deliver(self, batch: Batch) -> None:
        """Deliver a batch to observer and sinks."""
        times, cameras, start = self._detector.times.tolist(), len(batch.taken), time.perf_counter_ns()
        tracked = track([feed for feed, _ in batch.taken], batch.detections[:cameras])
        spots = place(batch.taken, tracked)
        share = (time.perf_counter_ns() - start) // max(cameras, 1)  # of each frame in what was done for all of them
        for (feed, frame), seen, at in zip(batch.taken, tracked, spots, strict=True):
            begun, detections = time.perf_counter_ns() - share, feed.count(frame, seen, at)
            counted = time.perf_counter_ns()
            for sink in self.sinks:
                sink.write(frame, detections)
            end = time.perf_counter_ns()
            row = self._record.frame(detections.class_id)
            age = batch.detected_ns - frame.time_ns
            row[:] = (batch.captured - batch.started, *times, counted - begun, end - counted, end - batch.started, age)
            if self._observer is not None:
                self._pause = self._observer.frame(feed.status, frame, detections, row)
        self.requests.answer(batch.requests, [self._detector.counted(each) for each in batch.detections[cameras:]])

    def _update(self) -> None:
        now = time.monotonic_ns()
        if now - self._updated_ns < UPDATE_NS:
            return
        self._updated_ns = now
        self._update_feeds()
        if self._observer is not None:
            self._observer.update([feed.status for feed in self.feeds])

    def _update_feeds(self) -> None:
        for feed in self.feeds:
            feed.update(self.paused.get(feed.settings.name))

    def rates(self) -> dict[str, float]:
        """Nominal frames per second of each camera; 0 if not known (yet)."""
        return {feed.settings.name: feed.settings.rate or feed.source.fps for feed in self.feeds}

    def replace(self, cameras: Sequence[Camera], detector: Detector) -> None:
        """Switch to new cameras and a new detector between two frames. A camera with the same source settings as before
        stays open; a new camera that is not available is waited for.

        Call it from any thread except the one in `run`; it returns once the old detector is no longer in use. Raises
        SourceError and ConfigError, in which case nothing has changed."""
        with self._replacing:
            feeds = open_feeds(cameras, detector.run, detector.spec.classes, patient=True, old=self.feeds)
            kept = {id(feed.source) for feed in feeds}
            old = [feed.source for feed in self.feeds if id(feed.source) not in kept]
            change = Change(feeds, detector)
            with self._changing:
                self._change = change
                if not self._running:
                    self._apply_change()
            self._awake.set()
            change.done.wait()
            close_sources(old)

    def _apply_change(self) -> None:
        change, self._change = self._change, None
        if change is None:
            return
        for feed in change.feeds:
            feed.source.awake = self._awake
        self.feeds, self._waiting = list(change.feeds), list(change.feeds)
        self.drop()
        self._in_flight = InFlight(change.detector, change.feeds, self._depth)
        self._detector, self._updated_ns = change.detector, 0
        self._record.name_classes(change.detector.spec.classes)
        change.done.set()

    def _summary(self, ended: str) -> Summary:
        self._update_feeds()
        live = any(feed.source.live for feed in self.feeds)
        cameras = [feed.summary() for feed in self.feeds]
        summary = self._record.summary(cameras, live, ended, self._detector.notice)
        return replace(summary, invalid_boxes=dict(self._detector.faults))

    def drop(self) -> None:
        """Wait for what is in flight and discard it, which frees the detector. Do not call it while the loop runs."""
        self._in_flight.drop()

    def close(self) -> None:
        """Close the cameras and discard what is in flight. May be called more than once."""
        close_sources([feed.source for feed in self.feeds])
        self.drop()
