"""A camera of the loop: its source, what of the detections counts, how it fares, and who wants to know."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgesparse.config import ONLY, Camera, Run
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import thresholds
from edgesparse.stream.frames import Frame
from edgesparse.stream.sources.base import Source, State
from edgesparse.stream.sources.open import open_source
from edgesparse.stream.tracks import Tracks
from edgesparse.stream.zones import Zones
from edgesparse.wording import redact


@dataclass
class CameraStatus:
    """How a camera fares; the loop brings it up to date. `source` is without credentials, times are monotonic."""

    name: str
    source: str
    state: State = "opening"
    why: str = ""
    """Why it is not live, in words."""
    since_ns: int = 0
    """When the state began."""
    frames: int = 0
    """Frames that were detected in."""
    dropped: int = 0
    reopened: int = 0
    width: int = 0
    height: int = 0
    age_ns: int = 0
    """Of the newest frame that was captured, when this was brought up to date."""


class Observer(Protocol):
    """Told what happens, in the loop's thread."""

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> float:
        """After each frame that was detected in; for how many seconds no more are to be taken, mostly 0.

        `row`: nanoseconds, as ALL_STAGES, then total, then age."""

    def turn(self, cameras: Sequence[CameraStatus]) -> None:
        """At least twice a second while the engine answers, whatever the cameras do."""


class Feed:
    """One camera in the loop. `like`: the feed in whose place it comes, with the same source.

    `run` has the thresholds of all cameras, `settings` what this one has of its own. The detector found everything
    that any camera wants: what this one does not want is left out here, behind NMS. That is the same as before it: a
    box below the threshold suppresses none above it.
    """

    def __init__(
        self, settings: Camera, source: Source, run: Run, names: Sequence[str], like: Feed | None = None
    ) -> None:
        self.settings, self.source = settings, source
        self.status: CameraStatus = like.status if like else CameraStatus(settings.name, redact(settings.source))
        self.ended = False
        own = thresholds(run.seen_by(settings), names, f"run.cameras.{settings.name}")
        shared = not run.cameras and settings.conf is None and settings.classes is None
        self._thresholds = None if shared else own
        self._zones = Zones(settings.zones) if settings.zones else None
        self._tracks: Tracks | None = None
        if run.tracking:
            self._tracks = (like and like._tracks) or Tracks()
        self._period_ns = int(1e9 / settings.rate) if settings.rate else 0
        self.due_ns = 0
        """When the next frame may be taken."""

    def take(self, now_ns: int) -> Frame | None:
        """A new frame, where there is one and `rate` allows it."""
        if self.ended or now_ns < self.due_ns:
            return None
        frame = self.source.poll()
        if frame is None:
            self.ended = not self.source.live
            return None
        late = self.due_ns + self._period_ns <= now_ns
        self.due_ns = self._period_ns + (now_ns if late else self.due_ns)
        frame.source = self.settings.name
        self.status.height, self.status.width = frame.image.shape[:2]
        return frame

    def select(self, frame: Frame, detections: Detections) -> Detections:
        """What of the detections in one of its frames counts. In the order in which they were taken."""
        self.status.frames += 1
        if self._thresholds is not None and len(detections):
            detections = detections[detections.confidence >= self._thresholds[detections.class_id]]
        if self._zones is not None:
            detections = self._zones.inside(detections, frame.image.shape[1], frame.image.shape[0])
        return detections if self._tracks is None else self._tracks.follow(detections)

    def update(self) -> None:
        """Bring the status up to date, and let the source notice what has stopped."""
        source, status = self.source, self.status
        source.watch()
        status.state, status.why, status.since_ns = source.state, source.why, source.since_ns
        status.dropped, status.reopened = source.dropped, source.reopened
        status.age_ns = time.monotonic_ns() - source.newest_ns if source.newest_ns else 0


def open_camera(settings: Camera, *, patient: bool) -> Source:
    """The source of a camera; messages call it by its name. `patient`: see open_source."""
    name = None if settings.name == ONLY else settings.name
    return open_source(
        settings.source, size=settings.size, fps=settings.fps, name=name, patient=patient, frozen=settings.frozen
    )


def open_feeds(
    cameras: Sequence[Camera], run: Run, names: Sequence[str], *, patient: bool, old: Sequence[Feed] = ()
) -> list[Feed]:
    """A feed a camera, on the source and with the counts of an old one where that opens like it. `patient`: see
    open_source. Raises SourceError and ConfigError, and nothing stays open then."""
    feeds: list[Feed] = []
    made: list[Source] = []
    try:
        for camera in cameras:
            like = next((feed for feed in old if camera.opens_like(feed.settings)), None)
            if like is None:
                made.append(open_camera(camera, patient=patient))
            source = made[-1] if like is None else like.source
            feeds.append(Feed(camera, source, run, names, like))
    except BaseException:
        close_sources(made)
        raise
    return feeds


def close_sources(sources: Sequence[Source]) -> None:
    """All at once: each may take a second."""
    for source in sources:
        source.leave()
    for source in sources:
        source.close()
