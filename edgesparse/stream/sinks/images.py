"""A sink that saves annotated images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.draw import Canvas
from edgesparse.stream.sinks.writing import file_stem, writable_folder, write_whole


class Images(Sink):
    """An annotated image per frame in a folder: PNG if the source's image is a PNG, otherwise JPEG."""

    def __init__(self, folder: str | Path, names: Sequence[str], *, force: bool = False) -> None:
        self._folder = writable_folder(folder)
        self._canvas = Canvas(names)
        self._force = force

    def write(self, frame: Frame, detections: Detections) -> None:
        suffix = ".png" if frame.name.lower().endswith(".png") else ".jpg"
        encoded, data = cv2.imencode(suffix, self._canvas.annotated(frame, detections))
        if not encoded:
            raise SinkError(f"cannot encode {frame.name} as {suffix}")
        write_whole(self._folder / f"{file_stem(frame)}{suffix}", data.tobytes(), self._force)

    def close(self) -> None:
        pass
