"""The frame loop: newest frames of the cameras -> detector -> sinks, timed a stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from edgesparse.closing import Closing
from edgesparse.config import ONLY, Camera
from edgesparse.errors import SourceError
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import Feed, Observer, close_sources, open_feeds
from edgesparse.stream.flights import Batch, Flights, Taken
from edgesparse.stream.frames import Frame
from edgesparse.stream.interrupts import Interrupts
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sources.base import Source
from edgesparse.stream.summary import ALL_STAGES as ALL_STAGES
from edgesparse.stream.summary import CameraCounts, Record
from edgesparse.stream.summary import Summary as Summary

TURN_NS = 250_000_000
"""How often cameras are watched and the observer is told, at the least."""


def run(
    source: Source,
    detector: Detector,
    sinks: Sequence[Sink] = (),
    *,
    limit: int | None = None,
    depth: int | None = None,
) -> Summary:
    """Feed an open source's frames through the detector into the sinks: a Loop with one camera. Raises what source and
    sinks raise; does not close the source."""
    settings = Camera(name=ONLY, source=source.name)
    feed = Feed(settings, source, detector.run, detector.spec.classes)
    loop = Loop([feed], detector, sinks, depth=depth)
    try:
        return loop.run(limit)
    finally:
        loop.drop()


class Loop(Closing):
    """Cameras on one engine: as many as its batch holds at once, those first that have waited longest, each with its
    newest frame. So every camera gets an equal share of an engine that is too slow for all, and none grows old.

    While a batch is on its way the next is taken where new frames are there already, up to `depth` batches (left out:
    as many as the detector takes); else one waits for that batch. What came meanwhile goes into the engine before the
    sinks get the results. Results come in the order of the frames.

    A context manager that closes the cameras, not the detector nor the sinks. Allocates nothing of a frame's size after
    the first frames. What cameras are there may be read and changed from any thread.
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
        """In the order of the recipe."""
        self._waiting = list(feeds)
        self._awake = threading.Event()
        for feed in feeds:
            feed.source.awake = self._awake
        self._flights, self._rest = Flights(detector, feeds, depth), 0.0
        self._record, self._turned_ns = Record(detector.spec.classes), 0
        self._replacing, self._changing = threading.Lock(), threading.Lock()
        self._wanted: _Change | None = None
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
        """A loop over the cameras, opened. One that is not there is an error if `patient` is false, else waited for; it
        is, unless said otherwise, where there are several. Raises SourceError."""
        patient = len(cameras) > 1 if patient is None else patient
        return cls(
            open_feeds(cameras, detector.run, detector.spec.classes, patient=patient),
            detector,
            sinks,
            observer=observer,
            stop=stop,
        )

    def run(self, limit: int | None = None) -> Summary:
        """Until all sources have ended, `limit` frames are done, a sink wants no more, `stop` is set, or, where there
        is no `stop`, Ctrl-C. What is on its way then still reaches the sinks, unless they want no more. The summary is
        of all there was so far.

        Raises what sources, sinks and detector raise. The cameras stay open, and it may be called again: it goes on
        with what was on its way behind the frames that failed."""
        started, before = time.monotonic(), self._record.frames
        with self._changing:
            self._running = True
        try:
            with Interrupts() if self._interruptible else nullcontext() as interrupts:
                ended = self._run(None if limit is None else before + limit, interrupts)
        except KeyboardInterrupt:
            ended = "interrupted"
        except SourceError:
            while self._flights:  # frames from before that
                self._advance(True)
            raise
        finally:
            self._record.seconds += time.monotonic() - started
            with self._changing:
                self._running = False
                self._apply()
        if self._record.frames == 0 and ended == "end of source":
            names = ", ".join(feed.source.name for feed in self.feeds)
            raise SourceError(f"{names} gave no frame: it is empty or damaged")
        return self._summary(ended)

    def _run(self, limit: int | None, interrupts: Interrupts | None) -> str:
        while limit is None or self._record.frames < limit:
            begun, taken = time.perf_counter_ns(), self._next(limit, interrupts)
            if taken:
                if interrupts:
                    interrupts.begin()
                self._flights.submit(taken, begun)
            self._advance(not taken)
            if any(sink.wants_stop for sink in self.sinks):
                self.drop()
                return "closed"
            if self._flights:
                continue
            if interrupts:
                interrupts.end()
            if self._stop.is_set():
                return "stopped"
            if not taken and all(feed.ended for feed in self.feeds) and self.feeds:
                return "end of source"
            self._between()
        return "limit"

    def _next(self, limit: int | None, interrupts: Interrupts | None) -> Taken:
        """New frames; none where what is on its way is to be done first."""
        self._turn()
        ending = self._stop.is_set() or (interrupts is not None and interrupts.waiting)
        if ending or self._flights.full or self._wanted is not None or self._rest > 0:
            return ()
        return self._take(limit)

    def _between(self) -> None:
        """Rest, and take another detector, where that is wanted: nothing is on its way."""
        rest, self._rest = self._rest, 0.0
        if rest > 0:
            self._stop.wait(rest)
        if self._wanted is not None:
            with self._changing:
                self._apply()

    def _take(self, limit: int | None) -> list[tuple[Feed, Frame]]:
        """New frames, as many as fit into the engine at once; waits a while where there is none, nor any on its way."""
        self._awake.clear()
        most = self._detector.batch
        if limit is not None and (most := min(most, limit - self._record.frames - self._flights.frames)) < 1:
            return []
        now, taken = time.monotonic_ns(), []
        for feed in self._waiting:
            if (frame := feed.take(now)) is not None:
                taken.append((feed, frame))
                if len(taken) == most:
                    break
        if taken:
            served = [feed for feed, _ in taken]
            self._waiting = [feed for feed in self._waiting if feed not in served] + served
        elif not self._flights and not all(feed.ended for feed in self.feeds):
            due = min((feed.due_ns - now for feed in self.feeds if feed.due_ns > now), default=TURN_NS)
            self._awake.wait(min(due, TURN_NS) / 1e9)
        return taken

    def _advance(self, idle: bool) -> None:
        """Hand on what was collected, else collect, and hand it on at once where no new frame could be taken before
        that: so new ones are in the engine meanwhile. `idle`: none came."""
        batch = self._flights.collected()
        if batch is None and self._flights and (idle or self._flights.full):
            self._flights.collect()
            batch = self._flights.collected() if self._flights.full else None
        if batch is not None:
            self._hand_on(batch)

    def _hand_on(self, batch: Batch) -> None:
        """To observer and sinks."""
        times = self._detector.times
        for (feed, frame), detections in zip(batch.taken, batch.found, strict=True):
            age = batch.found_ns - frame.time_ns
            detected = time.perf_counter_ns()
            detections = feed.select(frame, detections)
            for sink in self.sinks:
                sink.write(frame, detections)
            end = time.perf_counter_ns()
            row = self._record.frame(detections.class_id)
            row[0], row[1:5], row[5] = batch.captured - batch.begun, times, end - detected
            row[6], row[7] = end - batch.begun, age
            if self._observer is not None:
                self._rest = self._observer.frame(feed.status, frame, detections, row)

    def _turn(self) -> None:
        now = time.monotonic_ns()
        if now - self._turned_ns < TURN_NS:
            return
        self._turned_ns = now
        for feed in self.feeds:
            feed.update()
        if self._observer is not None:
            self._observer.turn([feed.status for feed in self.feeds])

    def rates(self) -> dict[str, float]:
        """Nominal frames a second a camera, 0 where that is not known (yet)."""
        return {feed.settings.name: feed.settings.rate or feed.source.fps for feed in self.feeds}

    def replace(self, cameras: Sequence[Camera], detector: Detector) -> None:
        """Go on with other cameras and another detector, between two frames. A camera whose source is the same stays
        open; a new one that is not there is waited for. From any thread but the loop's own while it runs; returns when
        the old detector is no longer used. Raises SourceError and ConfigError, and nothing has changed then."""
        with self._replacing:
            feeds = open_feeds(cameras, detector.run, detector.spec.classes, patient=True, old=self.feeds)
            kept = {id(feed.source) for feed in feeds}
            old = [feed.source for feed in self.feeds if id(feed.source) not in kept]
            change = _Change(feeds, detector)
            with self._changing:
                self._wanted = change
                if not self._running:
                    self._apply()
            self._awake.set()
            change.done.wait()
            close_sources(old)

    def _apply(self) -> None:
        change, self._wanted = self._wanted, None
        if change is None:
            return
        for feed in change.feeds:
            feed.source.awake = self._awake
        self.feeds, self._waiting = list(change.feeds), list(change.feeds)
        self.drop()
        self._flights = Flights(change.detector, change.feeds, self._depth)
        self._detector, self._turned_ns = change.detector, 0
        self._record.name_classes(change.detector.spec.classes)
        change.done.set()

    def _summary(self, ended: str) -> Summary:
        for feed in self.feeds:
            feed.update()
        statuses, live = [feed.status for feed in self.feeds], any(feed.source.live for feed in self.feeds)
        cameras = [CameraCounts(s.name, s.frames, s.dropped, s.reopened) for s in statuses]
        return self._record.summary(cameras, live, ended, self._detector.notice)

    def drop(self) -> None:
        """Wait for what is on its way, and want nothing of it: the detector is free. Not while it runs."""
        self._flights.drop()

    def close(self) -> None:
        """Close the cameras, and drop what is on its way; calling it again does nothing."""
        close_sources([feed.source for feed in self.feeds])
        self.drop()


@dataclass
class _Change:
    feeds: Sequence[Feed]
    detector: Detector
    done: threading.Event = field(default_factory=threading.Event)
