"""Counts the tracked objects of one camera: crossings of its lines, stays in its zones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from edgesparse.camera import Camera
from edgesparse.runtime.counts import Counts, Crossing, Stay
from edgesparse.runtime.detections import Detections, anchors_of, having
from edgesparse.stream.frames import Frame
from edgesparse.stream.lines import LEAST_MARGIN, MARGIN, Passage, PlacedLine
from edgesparse.stream.tracks import MOST_MISSED
from edgesparse.stream.zones import Presence, Zones

MOST_GAP_NS = 30_000_000_000
"""Frames further apart than this are not connected: stays end, and no line is crossed between them."""


@dataclass(slots=True)
class _Object:
    """What is known of a tracked object, of the frame that last showed it unless stated otherwise."""

    track_id: int
    class_id: int
    x: float
    y: float
    """Its anchor, in pixels."""
    shown_ns: int = 0
    """The time of that frame."""
    sides: tuple[int, ...] = ()
    """The side of each line that it was clearly on; empty if it was close to one."""
    zones: tuple[str, ...] | None = None
    """The zones that it was in; None if it has left another, and that stay has not ended yet."""
    began_ns: tuple[int, ...] = ()
    """When its stays in these zones began."""
    passages: dict[str, Passage] = field(default_factory=dict)
    """As of the last frame in which `sides` changed or were empty."""
    presences: dict[str, Presence] = field(default_factory=dict)
    """As of the last frame in which `zones` changed or were None, until `stays` brings them up to date."""

    def stays(self) -> dict[str, Presence]:
        for zone in self.zones or ():
            self.presences[zone].see(self.shown_ns)
        return self.presences


class Spots(NamedTuple):
    """Where the objects in a frame are, a value of each list per object. `x` and `y`: their anchors in pixels, moved
    into the frame, as a line across it has no way around its ends. `share_x` and `share_y`: the same relative to the
    frame's size, in the precision of float32. `margins`: the distance in pixels beyond a line from which on an object
    is clearly on that side.
    """

    x: list[float]
    y: list[float]
    share_x: list[float]
    share_y: list[float]
    margins: list[float]


def locate(frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Spots]:
    """Return where the objects in each frame are, for `Counter.count`. As `follow`, it takes all cameras at once."""
    at = list(accumulate(map(len, detections), initial=0))
    if not at[-1]:
        return [Spots([], [], [], [], [])] * len(frames)
    counts = np.diff(at)
    sizes = np.array([frame.image.shape[1::-1] for frame in frames], np.float64)
    boxes = np.concatenate([each.xyxy for each in detections])
    is_upright = all(each.rotated is None for each in detections)
    anchors = anchors_of(boxes) if is_upright else np.concatenate([each.anchors for each in detections])
    size = sizes.repeat(counts, axis=0)
    points = np.minimum(np.maximum(anchors, 0), size)
    longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    margins = np.maximum(longer * MARGIN, (sizes[:, 1] * LEAST_MARGIN).astype(np.float32).repeat(counts))
    columns = *points.T.tolist(), *(points / size).astype(np.float32).T.tolist(), margins.tolist()
    return [Spots(*[column[start:end] for column in columns]) for start, end in pairwise(at)]


class Counter:
    """Counts per line and direction, per zone, and per class. Used from the frame loop's thread.

    `tracked`: whether objects are tracked; otherwise zones only select. `like`: the counter whose counts of lines and
    zones that have not changed are continued with the first frame.
    """

    def __init__(self, camera: Camera, *, tracked: bool, like: Counter | None = None) -> None:
        self.counts = Counts(camera.lines, camera.zones, tracked)
        """Up to the newest frame."""
        self._zones = Zones(camera.zones)
        self._like = like
        self._objects: dict[int, _Object] = {}
        self._shown: dict[int, int] = {}
        """The number of the frame that last showed each of them."""
        self._place(0, 0)
        self._frame = self._now_ns = 0

    def count(self, frame: Frame, detections: Detections, spots: Spots) -> Detections:
        """Return the detections that count, with their zones, how long they have been there, and the counts.

        If there are zones, only detections in one of them count, and those that cross a line in this frame. `spots`:
        where they are, from `locate`.
        """
        exits = self._begin(frame)
        zones, now_ns = self._zones.containing(spots.share_x, spots.share_y), self._now_ns
        dwell: list[tuple[float, ...]] = [()] * len(detections)
        crossings: list[Crossing] = []
        entries: list[Stay] = []
        sides, objects = self._sides(spots), self._objects
        seconds: dict[tuple[int, ...], tuple[float, ...]] = {}  # since when: what came together stays as long
        for row, track_id in self._tracked(detections):
            x, y = spots.x[row], spots.y[row]
            if (known := objects.get(track_id)) is None:
                known = objects[track_id] = _Object(track_id, int(detections.class_id[row]), x, y)
            # Most objects stay where they are: on their side of all lines, and in their zones.
            if sides and sides[row] != known.sides:
                self._cross(known, sides[row], (x, y), spots.margins[row], crossings)
            if zones[row] != known.zones:
                self._stay(known, zones[row], entries, exits)
            known.x, known.y, known.shown_ns, self._shown[track_id] = x, y, now_ns, self._frame
            if (began_ns := known.began_ns) not in seconds:
                seconds[began_ns] = tuple([(now_ns - began) / 1e9 for began in began_ns])
            dwell[row] = seconds[began_ns]
        if objects:
            exits += self._forget(MOST_MISSED)
        self.counts = self.counts.after(tuple(crossings), tuple(entries), tuple(exits))
        return self._select(detections, zones, dwell)

    def _tracked(self, detections: Detections) -> Iterable[tuple[int, int]]:
        """Return position and number of each object."""
        if not self.counts.tracked or detections.track_id is None:
            return ()
        return [(row, track_id) for row, track_id in enumerate(detections.track_id.tolist()) if track_id >= 0]

    def _begin(self, frame: Frame) -> list[Stay]:
        """Continue what is continued. Returns the stays that end because the frame is not connected with the last."""
        self._continue()
        height, width = frame.image.shape[:2]
        if (width, height) != self._size:
            self._place(width, height)
            for known in self._objects.values():
                known.passages.clear()
                known.sides = ()
        connected = 0 <= frame.clock_ns - self._now_ns <= MOST_GAP_NS
        self._frame, self._now_ns = self._frame + 1, frame.clock_ns
        return [] if connected else list(self._forget(0))

    def _place(self, width: int, height: int) -> None:
        self._size = width, height
        self._placed = {name: PlacedLine.of(points, width, height) for name, points in self.counts.lines.items()}

    def _continue(self) -> None:
        """Continue what is to be continued, if nothing was counted yet; there may have been many reloads since."""
        chain = [self]
        while (older := chain[-1]._like) is not None:
            chain.append(older)
        for older, counter in pairwise(reversed(chain)):
            counter._take(older)

    def _take(self, like: Counter) -> None:
        """Take the counts and objects of another counter, as far as lines and zones are the same."""
        self._like = None
        now, before = self.counts, like.counts
        if not (now.tracked and before.tracked):
            return
        lines = {name for name, points in now.lines.items() if before.lines.get(name) == points}
        zones = {name for name, corners in now.zones.items() if before.zones.get(name) == corners}
        self.counts = replace(
            now,
            crossed={key: count for key, count in before.crossed.items() if key[0] in lines},
            entered={key: count for key, count in before.entered.items() if key[0] in zones},
            left={key: ended for key, ended in before.left.items() if key[0] in zones},
        )
        self._objects, self._shown = like._objects, like._shown
        self._place(*like._size)
        self._frame, self._now_ns = like._frame, like._now_ns
        for known in self._objects.values():
            known.passages = {name: passage for name, passage in known.passages.items() if name in lines}
            known.presences = {name: stay for name, stay in known.stays().items() if name in zones}
            known.sides, known.zones = (), None

    def _sides(self, spots: Spots) -> list[tuple[int, ...]]:
        """Return the side of each line that each object is clearly on; nothing without lines."""
        lines = self._placed.values()
        return list(zip(*[line.sides(spots.x, spots.y, spots.margins) for line in lines], strict=True))

    def _cross(
        self, known: _Object, sides: tuple[int, ...], at: tuple[float, float], margin: float, crossings: list[Crossing]
    ) -> None:
        """Take an object's next position, and add the lines that it has crossed."""
        known.sides = sides if all(sides) else ()
        for name, line in self._placed.items():
            if (passage := known.passages.get(name)) is None:
                passage = known.passages[name] = Passage()
            if (direction := passage.step(line.locate(known.x, known.y), line.locate(*at), margin)) is not None:
                crossings.append(Crossing(name, direction, known.track_id, known.class_id))

    def _stay(self, known: _Object, zones: tuple[str, ...], entries: list[Stay], exits: list[Stay]) -> None:
        """Take the zones that an object is in now, and add the stays that begin and end."""
        now_ns, presences = self._now_ns, known.stays()
        for zone in zones:
            if zone in presences:
                presences[zone].see(now_ns)
            else:
                presences[zone] = Presence(now_ns)
                entries.append(Stay(zone, known.track_id, known.class_id))
        left = [zone for zone in presences if zone not in zones and presences[zone].ended(now_ns)]
        exits += [Stay(zone, known.track_id, known.class_id, presences.pop(zone).seconds) for zone in left]
        known.zones = zones if len(presences) == len(zones) else None
        known.began_ns = tuple([presences[zone].began_ns for zone in zones])

    def _forget(self, missed: int) -> Iterator[Stay]:
        """Forget objects that were not seen in more than `missed` frames before this one, and end their stays."""
        oldest = self._frame - missed
        for track_id in [track_id for track_id, frame in self._shown.items() if frame < oldest]:
            known = self._objects.pop(track_id)
            del self._shown[track_id]
            for zone, presence in known.stays().items():
                yield Stay(zone, track_id, known.class_id, presence.seconds)

    def _select(
        self, detections: Detections, zones: list[tuple[str, ...]], dwell: list[tuple[float, ...]]
    ) -> Detections:
        if not self.counts.zones:
            return having(detections, counts=self.counts)
        times = tuple(dwell) if self.counts.tracked else None
        detections = having(detections, counts=self.counts, zones=tuple(zones), dwell=times)
        if all(zones):
            return detections
        kept = list(map(bool, zones))
        if self.counts.crossings and detections.track_id is not None:
            crossed = {crossing.track_id for crossing in self.counts.crossings}
            kept = [keep or number in crossed for keep, number in zip(kept, detections.track_id.tolist(), strict=True)]
        return detections[np.array(kept, bool)]
