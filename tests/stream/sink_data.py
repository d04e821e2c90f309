"""Frames and detections that the tests of sinks write."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame

NAMES = ["person", "bicycle"]
DETECTIONS = Detections(
    np.array([[10.04, 20.06, 40, 60], [0, 0, 100, 50]], np.float32),
    np.array([0.87654, 0.5], np.float32),
    np.array([1, 7], np.int64),
)


def gray_frame(index: int = 0, name: str = "clip.mp4", *, width: int = 100, height: int = 80, level: int = 0) -> Frame:
    return Frame(np.full((height, width, 3), level, np.uint8), time.monotonic_ns(), index, name)


def noise_frame(index: int, name: str = "x") -> Frame:
    return Frame(np.random.default_rng(index).integers(0, 255, (480, 640, 3), np.uint8), 0, index, name)


def read_video(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """The images of a video, and their presentation times in seconds."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    images: list[np.ndarray] = []
    times: list[float] = []
    while True:
        read, image = capture.read()
        if not read:
            return images, times
        images.append(image)
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
