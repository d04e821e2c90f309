"""A sink that writes detections as COCO results."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.writing import create_part, failing, file_stem


class CocoJson(Sink):
    """A list of COCO results: `image_id` (a number if the image's name is one), `file_name`, `category_id` (the class
    id), `bbox` (x y w h in pixels) and `score`. The file appears under its name when it is complete, on close."""

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self._path = Path(path)
        self._part = create_part(self._path, force)
        self._file: IO[str] | None = None
        with failing(path):
            self._file = self._part.open("w", encoding="utf-8")
        self._separator = "[\n"

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._file is None:
            return
        name = file_stem(frame)
        image_id = int(name) if name.isdecimal() else name
        try:
            for (x1, y1, x2, y2), score, class_id in zip(
                detections.xyxy.tolist(), detections.confidence, detections.class_id, strict=True
            ):
                result = {
                    "image_id": image_id,
                    "file_name": frame.name,
                    "category_id": int(class_id),
                    "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "score": round(float(score), 5),
                }
                self._file.write(self._separator + json.dumps(result))
                self._separator = ",\n"
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        file, self._file = self._file, None
        with suppress(OSError):
            if file is not None:
                file.close()
        self._part.unlink(missing_ok=True)
        raise SinkError(f"cannot write {self._path}: {error.strerror}; its results are lost") from error

    def close(self) -> None:
        if self._file is None:
            return
        try:
            self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            self._file = None
        except OSError as error:
            self._give_up(error)
