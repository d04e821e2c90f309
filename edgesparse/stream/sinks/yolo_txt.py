"""A sink that writes a YOLO label file per frame."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.writing import file_stem, writable_folder, write_whole


class YoloTxt(Sink):
    """A text file per frame with a line `class cx cy w h confidence` per detection, relative to the frame's size.

    Instead of `cx cy w h`, a mask has x and y along its largest outline, a rotated box those of its four corners.
    Keypoints follow the box as x, y and confidence. Ultralytics' data sets have the same columns.
    """

    def __init__(self, folder: str | Path, *, force: bool = False) -> None:
        self._folder = writable_folder(folder)
        self._force = force

    def write(self, frame: Frame, detections: Detections) -> None:
        height, width = frame.image.shape[:2]
        lines = []
        for number, (confidence, class_id) in enumerate(zip(detections.confidence, detections.class_id, strict=True)):
            values = " ".join(f"{value:.6f}" for value in _values(detections, number, (width, height)))
            lines.append(f"{class_id} {values} {confidence:.4f}\n")
        write_whole(self._folder / f"{file_stem(frame)}.txt", "".join(lines).encode(), self._force)

    def close(self) -> None:
        pass


def _values(detections: Detections, number: int, size: tuple[int, int]) -> Iterable[float]:
    """The columns of an object's position and shape, relative to the frame's width and height."""
    share = np.array(size, np.float64)
    if detections.corners is not None:
        return list((detections.corners[number] / share).flat)
    if detections.masks is not None and (outlines := detections.masks[number].polygons()) and len(outlines[0]) > 2:
        return list(((outlines[0] + 0.5) / share).flat)
    x1, y1, x2, y2 = detections.xyxy[number].tolist()
    box = [(x1 + x2) / 2 / size[0], (y1 + y2) / 2 / size[1], (x2 - x1) / size[0], (y2 - y1) / size[1]]
    if detections.keypoints is not None:
        box += (detections.keypoints[number] / np.array([*size, 1])).reshape(-1).tolist()
    return box
