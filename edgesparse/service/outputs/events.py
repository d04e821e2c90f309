"""When something counts as having happened: the rules of `service.events`, looked at frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import class_index
from edgesparse.service.settings import Event
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.json_lines import frame_record


@dataclass(frozen=True)
class Happening:
    """`record` is what JSON tells of it: the frame's, with only the detections that matched, and the event's name."""

    event: str
    camera: str
    time_ns: int
    record: dict[str, object]


class Rules:
    """Raises ConfigError where a rule names a class that the detector does not have."""

    def __init__(self, events: Sequence[Event], names: Sequence[str]) -> None:
        self._rules = [_Rule(event, names) for event in events]

    def __call__(self, frame: Frame, detections: Detections) -> list[Happening]:
        """What happened in this frame; used from one thread."""
        return [found for rule in self._rules if (found := rule(frame, detections)) is not None]


class _Rule:
    def __init__(self, event: Event, names: Sequence[str]) -> None:
        self._event, self._names = event, names
        where = f"service.events: {event.name}: classes"
        wanted = None if event.classes is None else [class_index(name, names, where) for name in event.classes]
        self._wanted: NDArray[np.int64] | None = None if wanted is None else np.array(wanted, np.int64)
        self._in_a_row: dict[str, int] = {}
        self._quiet_until: dict[str, int] = {}

    def __call__(self, frame: Frame, detections: Detections) -> Happening | None:
        event, camera = self._event, frame.source
        if event.cameras is not None and camera not in event.cameras:
            return None
        match = self._match(detections)
        frames = self._in_a_row[camera] = self._in_a_row.get(camera, 0) + 1 if int(match.sum()) >= event.count else 0
        if frames < event.frames or frame.time_ns < self._quiet_until.get(camera, 0):
            return None
        self._quiet_until[camera] = frame.time_ns + int(event.pause * 1e9)
        said = frame_record(frame, detections[match], self._names)
        return Happening(event.name, camera, frame.time_ns, {"event": event.name, **said})

    def _match(self, detections: Detections) -> NDArray[np.bool_]:
        event = self._event
        match: NDArray[np.bool_] = detections.confidence >= event.conf
        if self._wanted is not None:
            match &= np.isin(detections.class_id, self._wanted)
        if event.zones is not None:
            inside = detections.zones or ((),) * len(detections)
            match &= np.array([any(zone in event.zones for zone in zones) for zones in inside], bool)
        return match
