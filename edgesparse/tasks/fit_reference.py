"""The float network's own boxes in place of labels: what `fit` compares with if it is given none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgesparse.confidences import KEPT
from edgesparse.config import DetectorSpec
from edgesparse.errors import ConfigError
from edgesparse.files import make_folder, replace_text
from edgesparse.model.load import Model, load
from edgesparse.progress import Progress
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.evaluate import SCORING, opened
from edgesparse.runtime.heads.registry import head
from edgesparse.runtime.images import Size, store_image
from edgesparse.stream.sources.open import image_batches, image_states

QUALITY = 95
"""Of the JPEG files. The boxes are those that the network finds in the file as it is read back."""
PARTS, LABELS = ("choosing", "evaluation"), "instances.json"


def reference_boxes(
    model: Path, spec: DetectorSpec, source: str, count: int, folder: Path, progress: Progress
) -> tuple[Path, Path]:
    """Write images of `source` with the boxes that `model` keeps there, as two data sets; return their COCO files.

    The first 2 * `count` images go to both alternately: steps are chosen on the first data set, and the result is
    reported on the second. Images are copied, so that a video works too. What a previous call wrote for the same model
    and source is used again. Raises ConfigError if a data set would have no boxes, or the detector is for another task.
    """
    task = head(spec.head).task
    if task != "detect":
        raise ConfigError(f"without labels fit compares boxes, and this detector's task is {task}: pass --annotations")
    choosing, evaluation = (folder / part / LABELS for part in PARTS)
    used = [source, image_states(source, 2 * count), count, repr(spec)]
    key = hashlib.sha256(json.dumps(used).encode() + model.read_bytes()).hexdigest()
    if not all(_belongs(path, key) for path in (choosing, evaluation)):
        images = list(_detected(load(model), spec, source, count, folder, progress))
        for part, path in enumerate((choosing, evaluation)):
            content = _coco(images[part::2], spec.classes)
            if not content["annotations"]:
                raise ConfigError(
                    f"the model keeps no box (confidence {KEPT:g} or more) on {len(images[part::2])} images of "
                    f"{source}: needed images with objects, or --annotations"
                )
            replace_text(path, json.dumps({"info": {"key": key}, **content}) + "\n")
    return choosing, evaluation


def _belongs(path: Path, key: str) -> bool:
    try:
        return bool(json.loads(path.read_text())["info"]["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _detected(
    model: Model, spec: DetectorSpec, source: str, count: int, folder: Path, progress: Progress
) -> Iterator[tuple[Path, Size, Detections]]:
    """Store each image, and yield its file, its size and the boxes in it."""
    for part in PARTS:  # calibration reads whatever is in the folder: nothing of another source may remain
        (folder / part / LABELS).unlink(missing_ok=True)
        shutil.rmtree(folder / part / "images", ignore_errors=True)
        make_folder(folder / part / "images")
    images = image_batches(source, spec.input, 2 * count).frames(2 * count)
    with opened(model, spec, SCORING.model_copy(update={"conf": KEPT})) as detector:
        for number, pixels in enumerate(images):
            progress("detecting on the images", number, 0)
            path = folder / PARTS[number % 2] / "images" / f"{number:06d}.jpg"
            stored = store_image(path, pixels, QUALITY)
            yield path, (stored.shape[1], stored.shape[0]), detector(stored)


def _coco(detected: Sequence[tuple[Path, Size, Detections]], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (path, (width, height), detections) in enumerate(detected, 1):
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for (left, top, right, bottom), label in zip(
            detections.xyxy.tolist(), detections.class_id.tolist(), strict=True
        ):
            box = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": label, "iscrowd": 0, **box})
    return {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
