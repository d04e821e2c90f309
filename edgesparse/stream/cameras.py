"""A camera in the loop: its source, which detections count, its status, and the observer of all cameras."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgesparse.config import ONLY, Camera, Run
from edgesparse.redaction import redact
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.thresholds import for_tracker, thresholds
from edgesparse.stream.arrivals import Arrivals
from edgesparse.stream.counter import Counter, Spots, locate
from edgesparse.stream.frames import Frame
from edgesparse.stream.sources.base import Source, State
from edgesparse.stream.sources.open import open_source
from edgesparse.stream.summary import CameraCounts
from edgesparse.stream.totals import Totals, totals
from edgesparse.stream.tracks import Seen, Tracks, follow
from edgesparse.tiles import Tiles


@dataclass
class CameraStatus:
    """A camera's status, kept up to date by the loop. `source` has no credentials; times are monotonic."""

    name: str
    source: str
    state: State = "opening"
    why: str = ""
    """Why it is not live."""
    since_ns: int = 0
    """When the current state began."""
    frames: int = 0
    """Frames processed by the detector."""
    dropped: int = 0
    reopened: int = 0
    width: int = 0
    height: int = 0
    age_ns: int = 0
    """Age of the newest captured frame at the last update."""


class Observer(Protocol):
    """Notified by the loop, in its thread."""

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> float:
        """Called after each frame. Returns for how many seconds to pause, usually 0.

        `row`: durations in nanoseconds in the order of ALL_STAGES, then the total, then the frame's age."""

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        """Called at least twice per second while the engine responds, whatever the cameras do."""


class Feed:
    """One camera in the loop. `like`: the feed it replaces, with the same source.

    `run` has the thresholds of all cameras, `settings` this one's own. The detector returns what counts for any camera;
    what does not count for this one is removed here, after NMS. That is equivalent to removing it before NMS: a box
    below the threshold suppresses none above it.
    """

    def __init__(
        self, settings: Camera, source: Source, run: Run, names: Sequence[str], like: Feed | None = None
    ) -> None:
        self.settings, self.source = settings, source
        self.status: CameraStatus = like.status if like else CameraStatus(settings.name, redact(settings.source))
        self.ended = False
        own = thresholds(run.seen_by(settings), names, f"run.cameras.{settings.name}")
        shared = not run.cameras and settings.conf is None and settings.classes is None
        self._thresholds = None if shared else for_tracker(own, run)
        tiles = run.seen_by(settings).tiles
        self.tiles = tiles if isinstance(tiles, Tiles) else None
        self._names = tuple(names)
        former = like if like is not None and like._names == self._names else None
        self.counter: Counter | None = None
        """None without zones and lines."""
        if settings.zones or settings.lines:
            self.counter = Counter(settings, tracked=bool(run.tracking), like=former.counter if former else None)
        self._tracks: Tracks | None = None
        self._strong = own if run.tracking == "bytetrack" else None
        """The thresholds of what counts by itself; the detector returns weaker detections too."""
        if run.tracking:
            self._tracks = (former and former._tracks) or Tracks()
        self._period_ns = int(1e9 / settings.rate) if settings.rate else 0
        self.due_ns = 0
        """When the next frame may be taken."""
        self._resumed_ns = 0
        self._arrivals: Arrivals = like._arrivals if like else Arrivals()

    def take(self, now_ns: int) -> Frame | None:
        """Return a new frame, if there is one and `rate` allows it."""
        if self.ended or now_ns < self.due_ns:
            return None
        frame = self.source.poll()
        if frame is None:
            self.ended = not self.source.live
            return None
        late = self.due_ns + self._period_ns <= now_ns
        self.due_ns = self._period_ns + (now_ns if late else self.due_ns)
        self._arrivals.add(frame)
        frame.source = self.settings.name
        self.status.height, self.status.width = frame.image.shape[:2]
        return frame

    def expected_ns(self, now_ns: int) -> int:
        """Return when the next frame is expected; see Arrivals."""
        return self._arrivals.expected_ns(now_ns, self.due_ns)

    def seen(self, detections: Detections) -> Detections:
        """Return the detections that are above this camera's thresholds, or its tracker's."""
        if self._thresholds is None or not len(detections):
            return detections
        enough = detections.confidence >= self._thresholds[detections.class_id]
        return detections if enough.all() else detections[enough]

    def to_follow(self, detections: Detections) -> Seen | None:
        """Return what the tracker needs to know; None without tracking."""
        if self._tracks is None:
            return None
        weak = None
        if self._strong is not None and len(detections):
            weak = detections.confidence < self._strong[detections.class_id]
        return Seen(self._tracks, detections, weak)

    def count(self, frame: Frame, detections: Detections, spots: Spots | None = None) -> Detections:
        """Count a frame and what its detections do. Returns those that count. `spots`: where they are, if `place` was
        called for several cameras."""
        self.status.frames += 1
        if self.counter is None:
            return detections
        return self.counter.count(frame, detections, spots or locate([frame], [detections])[0])

    def summary(self) -> CameraCounts:
        """Return the camera's part in a run so far."""
        status, counted = self.status, Totals()
        if self.counter is not None and self.counter.counts.tracked:
            counted = totals(self.counter.counts, self._names)
        return CameraCounts(status.name, status.frames, status.dropped, status.reopened, counted)

    def update(self, paused_ns: int | None = None) -> None:
        """Update the status, and let the source detect a stall. `paused_ns`: since when the camera is paused."""
        source, status = self.source, self.status
        source.watch()
        if paused_ns is not None:
            status.state, status.why, status.since_ns = "paused", "paused", paused_ns
        else:
            if status.state == "paused":
                self._resumed_ns = time.monotonic_ns()
            status.state, status.why = source.state, source.why
            status.since_ns = max(source.since_ns, self._resumed_ns)
        status.dropped, status.reopened = source.dropped, source.reopened
        status.age_ns = time.monotonic_ns() - source.newest_ns if source.newest_ns else 0


def track(feeds: Sequence[Feed], detections: Sequence[Detections]) -> list[Detections]:
    """Return the detections in a frame of each camera that reach its thresholds, with the numbers of their objects if
    they are tracked. Call it in the order in which frames were taken, with each camera once; `Feed.count` follows."""
    seen = [feed.seen(each) for feed, each in zip(feeds, detections, strict=True)]
    to_follow = [each for each in map(Feed.to_follow, feeds, seen) if each is not None]
    return follow(to_follow) if to_follow else seen  # either all cameras are tracked or none


def place(taken: Sequence[tuple[Feed, Frame]], detections: Sequence[Detections]) -> Sequence[Spots | None]:
    """Return where the objects in each frame are, for `Feed.count`; None if no camera has zones or lines."""
    if all(feed.counter is None for feed, _ in taken):
        return [None] * len(taken)
    return locate([frame for _, frame in taken], detections)


@dataclass
class Change:
    """New cameras and a new detector for the loop."""

    feeds: Sequence[Feed]
    detector: Detector
    done: threading.Event = field(default_factory=threading.Event)


def open_camera_source(settings: Camera, *, patient: bool) -> Source:
    """Open a camera's source. For `patient` and errors, see open_source."""
    return open_source(
        settings.source,
        size=settings.size,
        fps=settings.fps,
        transport=settings.transport,
        name=None if settings.name == ONLY else settings.name,
        patient=patient,
        frozen=settings.frozen,
    )


def open_feeds(
    cameras: Sequence[Camera], run: Run, names: Sequence[str], *, patient: bool, old: Sequence[Feed] = ()
) -> list[Feed]:
    """Return a feed per camera, with the source and counts of an old feed that has the same source settings.

    `patient`: see open_source. Raises SourceError and ConfigError; nothing stays open then."""
    feeds: list[Feed] = []
    opened: list[Source] = []
    try:
        for camera in cameras:
            like = next((feed for feed in old if camera.opens_like(feed.settings)), None)
            if like is None:
                opened.append(open_camera_source(camera, patient=patient))
            source = opened[-1] if like is None else like.source
            feeds.append(Feed(camera, source, run, names, like))
    except BaseException:
        close_sources(opened)
        raise
    return feeds


def close_sources(sources: Sequence[Source]) -> None:
    """Close all sources in parallel, since each may take a second."""
    for source in sources:
        source.leave()
    for source in sources:
        source.close()
