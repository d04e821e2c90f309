"""Where detections go. This file: the sinks that write text; those that draw are in drawn.py."""

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

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.frames import Sink as Sink
from edgesparse.stream.sinks.draw import class_name
from edgesparse.stream.sinks.drawn import Images as Images
from edgesparse.stream.sinks.drawn import Video as Video
from edgesparse.stream.sinks.drawn import Window as Window
from edgesparse.stream.sinks.writing import claim, failing, refuse_existing, stem, writable_folder, write_whole


class JsonLines(Sink):
    """One JSON object a frame and line, written out at once; to standard output for "-"."""

    def __init__(self, path: str | Path, names: Sequence[str], *, force: bool = False) -> None:
        self._names = names
        self._path = str(path)
        self._whole = 0
        self._file: IO[str] | None = sys.stdout
        if self._path != "-":
            with failing(path):
                refuse_existing(Path(path), force)
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 - closed in close

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._file is None:
            return
        line = json.dumps(record(frame, detections, self._names)) + "\n"
        with failing(self._path):
            try:
                self._file.write(line)
                self._file.flush()
                self._whole += len(line)
            except BrokenPipeError:
                self.wants_stop = True
                self._give_up()
            except OSError:
                self._give_up()
                raise

    def _give_up(self) -> None:
        """Leave whole lines only, and nothing for Python to complain of when it flushes at exit."""
        file, self._file = self._file, None
        if file is None:
            return
        with suppress(OSError):
            if file is sys.stdout:
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
            else:
                with suppress(OSError):
                    file.close()
                os.truncate(self._path, self._whole)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None and file is not sys.stdout:
            with failing(self._path):
                file.close()


def record(frame: Frame, detections: Detections, names: Sequence[str]) -> dict[str, object]:
    """What JSON tells of a frame: boxes in pixels, x1 y1 x2 y2; `time` is the wall clock's at its capture."""
    wall_ns = time.time_ns() - time.monotonic_ns() + frame.time_ns
    stamp = datetime.fromtimestamp(wall_ns / 1e9, timezone.utc)
    height, width = frame.image.shape[:2]
    return {
        **({"camera": frame.source} if frame.source else {}),
        "source": frame.name,
        "frame": frame.index,
        "time": stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "monotonic_ns": frame.time_ns,
        "width": width,
        "height": height,
        "detections": [
            {
                "box": [round(float(value), 1) for value in box],
                "confidence": round(float(confidence), 4),
                "class_id": int(class_id),
                "class": class_name(names, int(class_id)),
                **_more(detections, number),
            }
            for number, (box, confidence, class_id) in enumerate(
                zip(detections.xyxy, detections.confidence, detections.class_id, strict=True)
            )
        ],
    }


def _more(detections: Detections, number: int) -> dict[str, object]:
    """What is known of a detection only where cameras have zones or objects are tracked."""
    more: dict[str, object] = {}
    if detections.zones is not None:
        more["zones"] = list(detections.zones[number])
    if detections.track_id is not None:
        track = int(detections.track_id[number])
        more["track"] = track if track >= 0 else None
    return more


class YoloTxt(Sink):
    """A text file a frame: `class cx cy w h confidence` a line, in parts of the frame's width and height."""

    def __init__(self, folder: str | Path, names: Sequence[str], *, force: bool = False) -> None:
        self._folder = writable_folder(folder)
        self._force = force

    def write(self, frame: Frame, detections: Detections) -> None:
        height, width = frame.image.shape[:2]
        lines = []
        for (x1, y1, x2, y2), confidence, class_id in zip(
            detections.xyxy.tolist(), detections.confidence, detections.class_id, strict=True
        ):
            centre = f"{(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f}"
            lines.append(f"{class_id} {centre} {(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f} {confidence:.4f}\n")
        write_whole(self._folder / f"{stem(frame)}.txt", "".join(lines).encode(), self._force)

    def close(self) -> None:
        pass


class CocoJson(Sink):
    """COCO's list of results: `image_id` (the image's number where its name is one), `file_name`, `category_id`
    (the class), `bbox` x y w h in pixels, `score`. The file appears whole, on close."""

    def __init__(self, path: str | Path, names: Sequence[str], *, force: bool = False) -> None:
        self._path = Path(path)
        self._part = claim(self._path, force)
        self._file: IO[str] | None = None
        with failing(path):
            self._file = self._part.open("w", encoding="utf-8")
        self._separator = "[\n"

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._file is None:
            return
        name = stem(frame)
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
