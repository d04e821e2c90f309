"""A sink that writes a line of JSON per frame."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.counts import Counts
from edgesparse.runtime.detections import Detections
from edgesparse.stream.counted import counted, counted_text
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.draw import class_name
from edgesparse.stream.sinks.writing import failing, refuse_existing


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
        line = frame_text(frame, detections, self._names) + "\n"
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
        **({} if (counts := _changed(detections)) is None else {"counted": counted(counts, names)}),
    }


def frame_text(frame: Frame, detections: Detections, names: Sequence[str]) -> str:
    """Return what `json.dumps` returns for `frame_record`, put together from texts, which takes half of the time."""
    text = _detections_text(detections, names)
    if text is None:
        return json.dumps(frame_record(frame, detections, names))
    height, width = frame.image.shape[:2]
    camera = f'"camera": {_quoted(frame.source)}, ' if frame.source else ""
    video = "" if frame.position_ns is None else f', "video_time": {round(frame.position_ns / 1e9, 3)}'
    counts = _changed(detections)
    end = "" if counts is None else f', "counted": {counted_text(counts, names)}'
    return (
        f'{{{camera}"source": {_quoted(frame.name)}, "frame": {frame.index}, "time": "{wall_time(frame.time_ns)}"'
        f'{video}, "monotonic_ns": {frame.time_ns}, "width": {width}, "height": {height}, "detections": [{text}]{end}}}'
    )


def _changed(detections: Detections) -> Counts | None:
    """Return what was counted, if anything was in this frame."""
    counts = detections.counts
    return counts if counts is not None and counts.changed else None


def _detections_text(detections: Detections, names: Sequence[str]) -> str | None:
    """Return what is between the brackets of `detections`; None if a number has no digits, which Python and JSON write
    differently, or so many that it has an exponent."""
    if not len(detections):
        return ""
    confidences, class_ids = detections.confidence, detections.class_id.tolist()
    if not (np.abs(detections.xyxy).max() < _MOST and 0 < confidences.min() <= confidences.max() <= 1):
        return None
    classes = {class_id: _class_text(class_id, class_name(names, class_id)) for class_id in set(class_ids)}
    shares = _shares()
    columns: list[Iterable[str]] = [
        (_BOX * len(detections) % tuple(detections.xyxy.ravel().tolist())).splitlines(),
        [shares[share] for share in np.rint(confidences.astype(np.float64) * 10_000).astype(np.int64).tolist()],
        [classes[class_id] for class_id in class_ids],
    ]
    if (zones := detections.zones) is not None:
        columns.append(map(_zones_text, zones))
    if detections.track_id is not None:
        tracks = detections.track_id.tolist()
        columns.append([f', "track": {track}' if track >= 0 else ', "track": null' for track in tracks])
    if zones is not None and detections.dwell is not None:
        stays = list(zip(zones, detections.dwell, strict=True))
        texts = {stay: _dwell_text(*stay) for stay in set(stays)}  # objects that came together have the same
        columns.append([texts[stay] for stay in stays])
    columns += [(f', "{key}": {json.dumps(value)}' for value in values) for key, values in _shapes(detections)]
    return "}, ".join(map("".join, zip(*columns, strict=True))) + "}"


@cache
def _shares() -> list[str]:
    """The texts of 0 to 1 in steps of 0.0001."""
    return [repr(step / 10_000) for step in range(10_001)]


_BOX = '{"box": [%.1f, %.1f, %.1f, %.1f], "confidence": \n'
_MOST = 1e15
"""From 1e16 on, Python writes numbers with an exponent."""
_quoted = lru_cache(json.dumps)


@lru_cache
def _class_text(class_id: int, name: str) -> str:
    return f', "class_id": {class_id}, "class": {json.dumps(name)}'


@lru_cache
def _zones_text(zones: tuple[str, ...]) -> str:
    return f', "zones": {json.dumps(zones)}'


def _dwell_text(zones: tuple[str, ...], seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    text = _dwell_format(zones, "%.3f") % seconds
    if "0," not in text and "0}" not in text:
        return text
    return _dwell_format(zones, "%s") % tuple([round(each, 3) for each in seconds])  # without zeros at the end


@lru_cache
def _dwell_format(zones: tuple[str, ...], number: str) -> str:
    return ', "dwell": {' + ", ".join(f"{json.dumps(zone)}: ".replace("%", "%%") + number for zone in zones) + "}"


def detection_records(detections: Detections, names: Sequence[str]) -> list[dict[str, object]]:
    """Return detections as JSON-compatible values: `detections` of `frame_record`."""
    if not len(detections):
        return []
    columns = _rounded(detections.xyxy, 1), _rounded(detections.confidence, 4), detections.class_id.tolist()
    records: list[dict[str, object]] = [
        {"box": box, "confidence": confidence, "class_id": class_id, "class": class_name(names, class_id)}
        for box, confidence, class_id in zip(*columns, strict=True)
    ]
    for key, values in (*_zones_and_track(detections), *_shapes(detections)):
        for record, value in zip(records, values, strict=True):
            if value is not _ABSENT:
                record[key] = value
    return records


def _rounded(values: NDArray[np.float32], digits: int) -> list[Any]:
    """Return what `round` returns for each value: products of float32 and 10 to the `digits` are exact in float64."""
    power = 10.0**digits
    rounded: list[Any] = (np.rint(values.astype(np.float64) * power) / power).tolist()
    return rounded


def wall_time(time_ns: int) -> str:
    """Return the wall-clock time (UTC, ISO 8601, milliseconds) of a monotonic time."""
    wall_ns = time.time_ns() - time.monotonic_ns() + time_ns
    stamp = datetime.fromtimestamp(wall_ns / 1e9, timezone.utc)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_ABSENT = object()
"""The value of a record that does not have the key."""
_Column = tuple[str, Iterable[object]]


def _shapes(detections: Detections) -> Iterator[_Column]:
    """What detectors for tasks other than detection report about objects, by key: a value per object."""
    if detections.masks is not None:
        yield "polygons", ([polygon.tolist() for polygon in mask.polygons()] for mask in detections.masks)
    if detections.keypoints is not None:
        points = zip(
            _rounded(detections.keypoints[..., :2], 1), _rounded(detections.keypoints[..., 2:], 3), strict=True
        )
        yield "keypoints", ([[*at, *seen] for at, seen in zip(*each, strict=True)] for each in points)
    if detections.rotated is not None:
        lengths, angles = _rounded(detections.rotated[:, :4], 1), _rounded(detections.rotated[:, 4:], 4)
        yield "rotated_box", ([*length, *angle] for length, angle in zip(lengths, angles, strict=True))


def _zones_and_track(detections: Detections) -> Iterator[_Column]:
    """The same for what detections have only if their camera has zones or objects are tracked."""
    if detections.zones is not None:
        yield "zones", map(list, detections.zones)
    if detections.track_id is not None:
        yield "track", (track if track >= 0 else None for track in detections.track_id.tolist())
    if detections.zones is not None and detections.dwell is not None:
        yield "dwell", map(_dwell, detections.zones, detections.dwell)


def _dwell(zones: Sequence[str], seconds: Sequence[float]) -> object:
    return {zone: round(each, 3) for zone, each in zip(zones, seconds, strict=True)} if seconds else _ABSENT
