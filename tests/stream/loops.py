"""Detectors, sources and sinks for tests of the frame loop."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgesparse import config
from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import Feed
from edgesparse.stream.frames import Frame
from edgesparse.stream.pipeline import Loop
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sources.memory import MemorySource

CLASSES = ("person", "cat", "dog")


def make_detector(folder: Path, size: int = 64, **plan: object) -> Detector:
    """Detects two people and a dog in every frame."""
    boxes = [[0, 0, 10, 10, 0.9, 0], [20, 0, 30, 10, 0.8, 0], [40, 0, 50, 10, 0.7, 2], [0] * 6]
    contents = {
        "inputs": [["images", [1, 3, size, size], "float32"]],
        "outputs": [["output0", [1, 4, 6], "float32"]],
        "values": {"output0": [boxes]},
        **plan,
    }
    (folder / "plan.json").write_text(json.dumps(contents))
    spec = DetectorSpec(head="end2end", classes=CLASSES, input=InputSpec(size=(size, size)))
    return Detector(backend("null").load(folder / "plan.json"), spec)


def make_images(folder: Path, count: int) -> Path:
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((48, 64, 3), i, np.uint8))
    return folder


def make_video(folder: Path, count: int, height: int = 48, width: int = 64) -> Path:
    """A video in which frame i has the level 5 i."""
    path = folder / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (width, height))
    for i in range(count):
        writer.write(np.full((height, width, 3), 5 * i % 256, np.uint8))
    writer.release()
    return path


def black_frames(count: int = 1, height: int = 48, width: int = 64) -> MemorySource:
    return MemorySource([np.zeros((height, width, 3), np.uint8)] * count, "memory")


def loop_of(source: Any, detector: Detector, sinks: Any = (), **options: Any) -> Loop:
    feed = Feed(config.Camera(name="belt", source="0"), source, detector.run, detector.spec.classes)
    return Loop([feed], detector, sinks, **options)


def record_calls(detector: Detector) -> list[str]:
    """The loop's calls from now on: S for submit and C for collect, each with its number."""
    calls: list[str] = []

    def recorded(letter: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(f"{letter}{sum(earlier[0] == letter for earlier in calls)}")
            return method(*arguments, **options)

        return call

    detector.submit = recorded("S", detector.submit)  # type: ignore[method-assign]
    detector.collect = recorded("C", detector.collect)  # type: ignore[method-assign]
    return calls


class Collect(Sink):
    """Keeps frame indices and detection counts; accepts no more after `stop` frames, fails at frame `fail`."""

    def __init__(self, stop: int = -1, fail: int = -1) -> None:
        self.indices: list[int] = []
        self.counts: list[int] = []
        self._stop, self._fail = stop, fail

    def write(self, frame: Frame, detections: Detections) -> None:
        if frame.index == self._fail:
            raise SinkError("the disk is full")
        self.indices.append(frame.index)
        self.counts.append(len(detections))
        self.wants_stop = len(self.indices) == self._stop

    def close(self) -> None:
        pass


class Levels(Sink):
    """Keeps the level of single-level frames, and how many batches were in flight at the time."""

    def __init__(self, detector: Detector | None = None) -> None:
        self.levels, self.busy, self._detector = list[int](), list[int](), detector

    def write(self, frame: Frame, detections: Detections) -> None:
        assert (frame.image == frame.image[0, 0]).all()
        self.levels.append(int(frame.image[0, 0, 0]))
        self.busy.append(self._detector.in_flight if self._detector else 0)

    def close(self) -> None:
        pass


class MemoryPeaks(Sink):
    """Peak bytes allocated at any time within a frame, after the first `warm` frames."""

    def __init__(self, warm: int = 10) -> None:
        self.most, self._warm, self._before = 0, warm, 0
        tracemalloc.start()

    def write(self, frame: Frame, detections: Detections) -> None:
        now, peak = tracemalloc.get_traced_memory()
        if frame.index > self._warm:
            self.most = max(self.most, peak - self._before)
        tracemalloc.reset_peak()
        self._before = now

    def close(self) -> None:
        tracemalloc.stop()
