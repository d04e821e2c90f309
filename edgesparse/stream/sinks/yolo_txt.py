"""A sink that writes a YOLO label file per frame."""

from __future__ import annotations

from pathlib import Path

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.writing import file_stem, writable_folder, write_whole


class YoloTxt(Sink):
    """A text file per frame with a line `class cx cy w h confidence` per detection, relative to the frame's size."""

    def __init__(self, folder: str | Path, *, force: bool = False) -> None:
        self._folder = writable_folder(folder)
        self._force = force

    def write(self, frame: Frame, detections: Detections) -> None:
        height, width = frame.image.shape[:2]
        lines = []
        for (x1, y1, x2, y2), confidence, class_id in zip(
            detections.xyxy.tolist(), detections.confidence, detections.class_id, strict=True
        ):
            center = f"{(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f}"
            lines.append(f"{class_id} {center} {(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f} {confidence:.4f}\n")
        write_whole(self._folder / f"{file_stem(frame)}.txt", "".join(lines).encode(), self._force)

    def close(self) -> None:
        pass
