"""A sink that writes detections as COCO results."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.labels.coco import read_ids
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.draw import class_name
from edgesparse.stream.sinks.writing import create_part, failing, file_stem


class CocoJson(Sink):
    """A list of COCO results: `image_id`, `file_name`, `category_id`, `category` (the class's name), `bbox` (x y w h in
    pixels) and `score`. The file appears under its name once it is complete, on close.

    A mask is written as `segmentation`, in compressed run lengths; `keypoints` are x, y and confidence of each; a
    rotated box is a polygon in `segmentation`, and `rotated_box` has its center, width, height and angle in radians.

    With `categories`, the COCO JSON file of a data set, ids are those of the data set; images and classes that it does
    not list are left out. Otherwise `category_id` is the class id, and `image_id` is a number if the image's name is
    one. Raises ConfigError if categories of the data set are not in `names`.
    """

    def __init__(
        self, path: str | Path, names: Sequence[str], *, categories: str | Path | None = None, force: bool = False
    ) -> None:
        self._path, self._names = Path(path), names
        self._ids: Sequence[int | str | None] | None = None
        self._images: dict[str, int | str] | None = None
        if categories is not None:
            data_set = read_ids(Path(categories))
            self._ids, self._images = data_set.class_ids(names), data_set.images
        self._part = create_part(self._path, force)
        self._file: IO[str] | None = None
        with failing(path):
            self._file = self._part.open("w", encoding="utf-8")
        self._separator = "[\n"

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._file is None:
            return
        image_id = self._image_id(frame)
        if image_id is None:
            return
        try:
            for number, ((x1, y1, x2, y2), score, class_id) in enumerate(
                zip(detections.xyxy.tolist(), detections.confidence, detections.class_id, strict=True)
            ):
                category_id = self._category_id(int(class_id))
                if category_id is None:
                    continue
                result = {
                    "image_id": image_id,
                    "file_name": frame.name,
                    "category_id": category_id,
                    "category": class_name(self._names, int(class_id)),
                    "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "score": round(float(score), 5),
                    **_shape(detections, number),
                }
                self._file.write(self._separator + json.dumps(result))
                self._separator = ",\n"
        except OSError as error:
            self._give_up(error)

    def _category_id(self, class_id: int) -> int | str | None:
        if self._ids is None:
            return class_id
        return self._ids[class_id] if class_id < len(self._ids) else None

    def _image_id(self, frame: Frame) -> int | str | None:
        name = file_stem(frame)
        if self._images is None:
            return int(name) if name.isdecimal() else name
        return self._images.get(name)

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


def _shape(detections: Detections, number: int) -> dict[str, object]:
    """What COCO results have besides the box, for tasks other than detection."""
    values: dict[str, object] = {}
    if detections.masks is not None:
        values["segmentation"] = detections.masks[number].as_coco()
    if detections.keypoints is not None:
        values["keypoints"] = [round(value, 3) for value in detections.keypoints[number].reshape(-1).tolist()]
    if detections.rotated is not None and detections.corners is not None:
        values["segmentation"] = [[round(value, 2) for value in detections.corners[number].reshape(-1).tolist()]]
        values["rotated_box"] = [round(value, 4) for value in detections.rotated[number].tolist()]
    return values
