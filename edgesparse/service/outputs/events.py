"""Rules that turn detections into events: `service.events`, evaluated frame by frame.

An event has an id and a life cycle. It starts when a rule matches, is updated while the rule keeps matching, and ends
when it no longer does or its camera stops delivering frames.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgesparse.runtime.counts import Direction
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.thresholds import class_index
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.json_lines import frame_record, wall_time
from edgesparse.values import Section, Unit

MOST_RULES = 100
"""Each is evaluated for every frame."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]


class EventRule(Section):
    """When detections count as an event, which MQTT, the webhook and clips then report."""

    name: Name
    """Name of the event, unique: a-z, 0-9 and -."""
    classes: tuple[str, ...] | None = None
    """Names or numbers of classes; default: any."""
    conf: Unit = 0.0
    """Minimum confidence (0..1)."""
    cameras: tuple[str, ...] | None = None
    """Names of cameras; default: any."""
    zones: tuple[str, ...] | None = None
    """Zones of the camera, one of which must contain the detection."""
    dwell: Annotated[float, Field(ge=0, le=86400)] | None = None
    """Seconds that a tracked object must have been in one of these zones, or in any if none are named."""
    lines: tuple[str, ...] | None = None
    """Lines of the camera, one of which the detection must cross in this frame."""
    direction: Direction | None = None
    """Direction in which it must cross: `in` or `out`; default: any."""
    count: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Detections needed in one frame."""
    frames: Annotated[int, Field(ge=1, le=1000)] = 1
    """Consecutive frames needed."""
    pause: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds after a report of this rule in which the same camera starts or updates no event of it."""
    end_after: Annotated[float, Field(ge=0, le=3600)] = 2.0
    """Seconds without a match after which the event ends."""

    @model_validator(mode="after")
    def _possible(self) -> EventRule:
        if self.direction is not None and self.lines is None:
            raise ValueError("lines, since there is a direction")
        if self.lines is not None and self.frames > 1:
            raise ValueError("frames: 1, since a line is crossed in a single frame")
        return self


Phase = Literal["start", "update", "end", "clip", "alarm"]
"""`clip`: a clip of the event was written. `alarm`: the start of an event that is not of a frame, such as drift."""


@dataclass(frozen=True)
class Event:
    """A report of an event. `time_ns` is the frame's, on the monotonic clock. `id` is the same in all reports of an
    event. `record` has the event's name, id and phase, and the frame's JSON object with only the detections that
    matched; at the end, when the event started and was last seen."""

    name: str
    camera: str
    time_ns: int
    record: dict[str, object]
    id: str = ""
    phase: Phase = "start"

    @property
    def detected(self) -> bool:
        """Whether the report comes with a frame."""
        return self.phase in ("start", "update")

    def follow(self, phase: Phase, time_ns: int, **values: object) -> Event:
        """Return a later report of the same event."""
        record = {"event": self.name, "id": self.id, "type": phase, "camera": self.camera, **values}
        return Event(self.name, self.camera, time_ns, record, self.id, phase)


class EventRules:
    """Evaluates all rules. Raises ConfigError if a rule names a class that the detector does not have."""

    def __init__(self, rules: Sequence[EventRule], names: Sequence[str]) -> None:
        self._rules = [_Evaluator(rule, names) for rule in rules]

    def __call__(self, frame: Frame, detections: Detections) -> list[Event]:
        """Return the events of this frame. Called from one thread."""
        return [event for rule in self._rules if (event := rule(frame, detections)) is not None]

    def ended(self, now_ns: int, live: Collection[str]) -> list[Event]:
        """Return the ends of events that no longer match, or whose camera is not among the `live` ones."""
        return [event for rule in self._rules for event in rule.ended(now_ns, live)]


@dataclass
class _Run:
    """One camera's matches of a rule."""

    consecutive: int = 0
    """Consecutive frames that match."""
    pause_until: int = 0
    seen_ns: int = 0
    """When it last matched."""
    begun: Event | None = field(default=None)
    """The start of the event that has not ended."""


class _Evaluator:
    """One rule, with each camera's run of matching frames."""

    def __init__(self, rule: EventRule, names: Sequence[str]) -> None:
        self._rule, self._names = rule, names
        where = f"service.events: {rule.name}: classes"
        self._classes: NDArray[np.int64] | None = None
        if rule.classes is not None:
            self._classes = np.array([class_index(name, names, where) for name in rule.classes], np.int64)
        self._runs: dict[str, _Run] = {}

    def __call__(self, frame: Frame, detections: Detections) -> Event | None:
        rule, camera = self._rule, frame.source
        if rule.cameras is not None and camera not in rule.cameras:
            return None
        match = self._match(detections)
        enough = int(match.sum()) >= rule.count
        run = self._runs.setdefault(camera, _Run())
        run.consecutive = run.consecutive + 1 if enough else 0
        if enough:
            run.seen_ns = frame.time_ns
        if run.consecutive < rule.frames or frame.time_ns < run.pause_until:
            return None
        run.pause_until = frame.time_ns + int(rule.pause * 1e9)
        matched = frame_record(frame, detections[match], self._names)
        if run.begun is not None:
            return run.begun.follow("update", frame.time_ns, **matched)
        begun = Event(rule.name, camera, frame.time_ns, {}, secrets.token_hex(8))
        run.begun = begun.follow("start", frame.time_ns, **matched)
        return run.begun

    def ended(self, now_ns: int, live: Collection[str]) -> Iterator[Event]:
        for camera, run in self._runs.items():
            over = run.consecutive == 0 and now_ns - run.seen_ns >= self._rule.end_after * 1e9
            if run.begun is None or not (over or camera not in live):
                continue
            begun, run.begun, run.consecutive = run.begun, None, 0
            yield begun.follow(
                "end",
                run.seen_ns,
                time=wall_time(run.seen_ns),
                start_time=begun.record["time"],
                seconds=round((run.seen_ns - begun.time_ns) / 1e9, 3),
            )

    def _match(self, detections: Detections) -> NDArray[np.bool_]:
        rule = self._rule
        match: NDArray[np.bool_] = detections.confidence >= rule.conf
        if self._classes is not None:
            match &= np.isin(detections.class_id, self._classes)
        inside = detections.zones or ((),) * len(detections)
        if rule.zones is not None:
            match &= np.array([any(zone in rule.zones for zone in zones) for zones in inside], bool)
        elif detections.zones is not None and rule.lines is None:  # not what only crosses a line, outside of all zones
            match &= np.array([bool(zones) for zones in inside], bool)
        if rule.dwell is not None:
            match &= np.array([self._longest(detections, row) >= rule.dwell for row in range(len(detections))], bool)
        if rule.lines is not None:
            crossings = detections.counts.crossings if detections.counts else ()
            crossing = [c.track_id for c in crossings if c.line in rule.lines and rule.direction in (None, c.direction)]
            match &= np.isin(-1 if detections.track_id is None else detections.track_id, crossing)
        return match

    def _longest(self, detections: Detections, row: int) -> float:
        """Return for how many seconds a detection has been in one of the rule's zones; -1 if it is in none."""
        if detections.zones is None or not detections.dwell or not detections.dwell[row]:
            return -1.0
        times = zip(detections.zones[row], detections.dwell[row], strict=True)
        return max(
            (seconds for zone, seconds in times if self._rule.zones is None or zone in self._rule.zones), default=-1.0
        )
