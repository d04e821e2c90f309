"""A sink that writes a line of JSON per frame."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.draw import class_name
from edgesparse.stream.sinks.writing import failing, refuse_existing
from edgesparse.stream.totals import totals


class JsonLines(Sink):
    """One JSON object per line and frame, flushed immediately; "-" is standard output. See `frame_record`."""

    def __init__(self, path: str | Path, names: Sequence[str], *, force: bool = False) -> None:
        self._names = names
        self._path = str(path)
        self._complete = 0
        """Number of bytes in complete lines."""
        self._file: IO[str] | None = sys.stdout
        if self._path != "-":
            with failing(path):
                refuse_existing(Path(path), force)
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 - closed in close

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._file is None:
            return
        line = json.dumps(frame_record(frame, detections, self._names)) + "\n"
        with failing(self._path):
            try:
                self._file.write(line)
                self._file.flush()
                self._complete += len(line)
            except BrokenPipeError:
                self.wants_stop = True
                self._give_up()
            except OSError:
                self._give_up()
                raise

    def _give_up(self) -> None:
        """Keep only complete lines, and leave nothing buffered that Python would fail to flush at exit."""
        file, self._file = self._file, None
        if file is None:
            return
        with suppress(OSError):
            if file is sys.stdout:
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
            else:
                with suppress(OSError):
                    file.close()
                os.truncate(self._path, self._complete)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None and file is not sys.stdout:
            with failing(self._path):
                file.close()


def frame_record(frame: Frame, detections: Detections, names: Sequence[str]) -> dict[str, object]:
    """Return a frame and its detections as JSON-compatible values. `time` is the wall-clock time of capture (UTC),
    `video_time` the seconds from the start of a video file, `box` x1 y1 x2 y2 in pixels.

    If the detector reports them: `polygons`, the outlines of an object's mask, each a list of [x, y]; `keypoints`, a
    list of [x, y, confidence]; `rotated_box`, the center's x and y, width, height and the angle in radians.

    If objects are tracked: `dwell`, the seconds that an object has been in each of its zones, and, in a frame in which
    something was counted, `counted`: the `crossings` of lines, what `entered` and `left` zones, and the `totals`.
    """
    height, width = frame.image.shape[:2]
    return {
        **({"camera": frame.source} if frame.source else {}),
        "source": frame.name,
        "frame": frame.index,
        "time": wall_time(frame.time_ns),
        **({} if frame.position_ns is None else {"video_time": round(frame.position_ns / 1e9, 3)}),
        "monotonic_ns": frame.time_ns,
        "width": width,
        "height": height,
        "detections": detection_records(detections, names),
        **_counted(detections, names),
    }


def detection_records(detections: Detections, names: Sequence[str]) -> list[dict[str, object]]:
    """Return detections as JSON-compatible values: `detections` of `frame_record`."""
    rows = zip(detections.xyxy.tolist(), detections.confidence.tolist(), detections.class_id.tolist(), strict=True)
    return [
        {
            "box": [round(value, 1) for value in box],
            "confidence": round(confidence, 4),
            "class_id": class_id,
            "class": class_name(names, class_id),
            **_zones_and_track(detections, number),
            **_shape(detections, number),
        }
        for number, (box, confidence, class_id) in enumerate(rows)
    ]


def wall_time(time_ns: int) -> str:
    """Return the wall-clock time (UTC, ISO 8601, milliseconds) of a monotonic time."""
    wall_ns = time.time_ns() - time.monotonic_ns() + time_ns
    stamp = datetime.fromtimestamp(wall_ns / 1e9, timezone.utc)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shape(detections: Detections, number: int) -> dict[str, object]:
    """What detectors for tasks other than detection report about an object."""
    values: dict[str, object] = {}
    if detections.masks is not None:
        values["polygons"] = [polygon.tolist() for polygon in detections.masks[number].polygons()]
    if detections.keypoints is not None:
        values["keypoints"] = [
            [round(x, 1), round(y, 1), round(seen, 3)] for x, y, seen in detections.keypoints[number].tolist()
        ]
    if detections.rotated is not None:
        *lengths, angle = detections.rotated[number].tolist()
        values["rotated_box"] = [*(round(value, 1) for value in lengths), round(angle, 4)]
    return values


def _zones_and_track(detections: Detections, number: int) -> dict[str, object]:
    """Return what a detection has only if its camera has zones or objects are tracked."""
    values: dict[str, object] = {}
    if detections.zones is not None:
        values["zones"] = list(detections.zones[number])
    if detections.track_id is not None:
        track = int(detections.track_id[number])
        values["track"] = track if track >= 0 else None
    if detections.zones and detections.dwell and detections.dwell[number]:
        times = zip(detections.zones[number], detections.dwell[number], strict=True)
        values["dwell"] = {zone: round(seconds, 3) for zone, seconds in times}
    return values


def _counted(detections: Detections, names: Sequence[str]) -> dict[str, object]:
    """Return what was counted in this frame, and the totals; nothing if nothing was."""
    counts = detections.counts
    if counts is None or not counts.changed:
        return {}

    def of(track_id: int, class_id: int) -> dict[str, object]:
        return {"track": track_id, "class_id": class_id, "class": class_name(names, class_id)}

    crossings = [{"line": c.line, "direction": c.direction, **of(c.track_id, c.class_id)} for c in counts.crossings]
    entered = [{"zone": stay.zone, **of(stay.track_id, stay.class_id)} for stay in counts.entries]
    left = [
        {"zone": stay.zone, **of(stay.track_id, stay.class_id), "seconds": round(stay.seconds, 3)}
        for stay in counts.exits
    ]
    happened = {"crossings": crossings, "entered": entered, "left": left}
    return {"counted": {**{key: values for key, values in happened.items() if values}, "totals": totals(counts, names)}}
