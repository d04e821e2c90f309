"""Rules that turn detections into events: `service.events`, evaluated frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import class_index
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.json_lines import frame_record
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
    count: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Detections needed in one frame."""
    frames: Annotated[int, Field(ge=1, le=1000)] = 1
    """Consecutive frames needed."""
    pause: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds after an event during which this rule reports no other from the same camera."""


@dataclass(frozen=True)
class Event:
    """`time_ns` is the frame's, on the monotonic clock. `record` is the frame's JSON object with only the detections
    that matched, and the event's name."""

    name: str
    camera: str
    time_ns: int
    record: dict[str, object]


class EventRules:
    """Evaluates all rules. Raises ConfigError if a rule names a class that the detector does not have."""

    def __init__(self, rules: Sequence[EventRule], names: Sequence[str]) -> None:
        self._rules = [_Evaluator(rule, names) for rule in rules]

    def __call__(self, frame: Frame, detections: Detections) -> list[Event]:
        """Return the events of this frame. Called from one thread."""
        return [event for rule in self._rules if (event := rule(frame, detections)) is not None]


class _Evaluator:
    """One rule, with each camera's number of consecutive matching frames and the end of its pause."""

    def __init__(self, rule: EventRule, names: Sequence[str]) -> None:
        self._rule, self._names = rule, names
        where = f"service.events: {rule.name}: classes"
        self._classes: NDArray[np.int64] | None = None
        if rule.classes is not None:
            self._classes = np.array([class_index(name, names, where) for name in rule.classes], np.int64)
        self._consecutive: dict[str, int] = {}
        self._pause_until: dict[str, int] = {}

    def __call__(self, frame: Frame, detections: Detections) -> Event | None:
        rule, camera = self._rule, frame.source
        if rule.cameras is not None and camera not in rule.cameras:
            return None
        match = self._match(detections)
        enough = int(match.sum()) >= rule.count
        frames = self._consecutive[camera] = self._consecutive.get(camera, 0) + 1 if enough else 0
        if frames < rule.frames or frame.time_ns < self._pause_until.get(camera, 0):
            return None
        self._pause_until[camera] = frame.time_ns + int(rule.pause * 1e9)
        matched = frame_record(frame, detections[match], self._names)
        return Event(rule.name, camera, frame.time_ns, {"event": rule.name, **matched})

    def _match(self, detections: Detections) -> NDArray[np.bool_]:
        rule = self._rule
        match: NDArray[np.bool_] = detections.confidence >= rule.conf
        if self._classes is not None:
            match &= np.isin(detections.class_id, self._classes)
        if rule.zones is not None:
            inside = detections.zones or ((),) * len(detections)
            match &= np.array([any(zone in rule.zones for zone in zones) for zones in inside], bool)
        return match
