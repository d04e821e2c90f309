"""Frames, detections, events and settings shared by the tests of outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgesparse.runtime.counts import Counts, Crossing, Direction, Stay
from edgesparse.runtime.detections import Detections
from edgesparse.service.outputs.base import OutputContext, Scene
from edgesparse.service.outputs.events import Event
from edgesparse.service.settings import ServiceSettings, settings_type
from edgesparse.service.snapshots import SnapshotSettings
from edgesparse.stream.frames import Frame

NAMES = ("person", "dog")
SCENE = Scene(NAMES)
SECOND = 1_000_000_000


def sample_frame(seconds: float = 0.0, camera: str = "door", shape: tuple[int, int] = (96, 128)) -> Frame:
    image = np.full((*shape, 3), 90, np.uint8)
    return Frame(image, int(seconds * SECOND), int(seconds * 10), "demo", camera)


def sample_detections(*classes: int, conf: float = 0.9, zones: tuple[tuple[str, ...], ...] | None = None) -> Detections:
    count = len(classes)
    boxes = np.tile(np.array([10, 10, 60, 60], np.float32), (count, 1))
    return Detections(boxes, np.full(count, conf, np.float32), np.array(classes, np.int64), zones)


LINE: Any = ((0.5, 0), (0.5, 1))
HALF: Any = ((0, 0), (1, 0), (1, 1), (0, 1))


def counting(*, crossed: tuple[Direction, ...] = (), left: float | None = None, dwell: float = 0.0) -> Detections:
    """A person, number 7, in the zone `gate` for `dwell` seconds, who crosses the line `way`, or leaves the zone after
    `left` seconds."""
    counts = Counts({"way": LINE}, {"gate": HALF}, tracked=True).after((), (Stay("gate", 7, 0),), ())
    counts = counts.after(
        tuple(Crossing("way", direction, 7, 0) for direction in crossed),
        (),
        () if left is None else (Stay("gate", 7, 0, left),),
    )
    detections = sample_detections(0, zones=(("gate",),))
    return replace(detections, track_id=np.array([7]), dwell=((dwell,),), counts=counts)


def sample_event(seconds: float = 0.0, camera: str = "door", **record: object) -> Event:
    return Event("person", camera, int(seconds * SECOND), record)


def output_context(folder: Path, fps: float = 10) -> OutputContext:
    return OutputContext(folder, "test", SnapshotSettings(fps=fps))


def service_settings(**sections: Any) -> ServiceSettings:
    """Settings with these output sections."""
    return settings_type()(**sections)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never became true"
        time.sleep(0.02)


def secret_file(path: Path, text: str) -> Path:
    """A file that only its owner can read."""
    path.write_text(text)
    path.chmod(0o600)
    return path
