"""The reader of labels: COCO JSON or a YOLO data set, checked before anything uses it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import ConfigError
from edgesparse.runtime.coco_scores import require_shapes
from edgesparse.runtime.heads.base import Task
from edgesparse.runtime.images import read_image
from edgesparse.runtime.labels import matching
from edgesparse.runtime.labels.base import Content, Fault, Faults, LabeledBox, LabeledImage, Size
from edgesparse.runtime.labels.coco import read_coco
from edgesparse.runtime.labels.folders import is_class_folders, read_class_folders
from edgesparse.runtime.labels.geometry import check_geometry
from edgesparse.runtime.labels.yolo import label_file, read_yolo

Image = NDArray[np.uint8]
AHEAD = 4
"""Images to decode ahead while one is used."""
YAML = (".yaml", ".yml")
COCO_FILES = ("instances_val*.json", "instances.json", "_annotations.coco.json")


class Labels:
    """Labeled images, boxes and categories of a data set.

    `annotations` is a COCO JSON file, a YOLO data.yaml, or a folder that holds one of them. `images` is the folder of
    the images, if they are not next to the annotations. Raises ConfigError, with the number of faults and examples, if
    the labels cannot be trusted.
    """

    def __init__(self, annotations: Path, images: Path | None = None) -> None:
        self.path = annotation_file(annotations)
        content, faults = inspect_labels(self.path, images)
        _raise(faults, self.path)
        self.images, self.boxes, self.categories = content.images, content.boxes, content.categories
        self.folder, self.relative = content.folder, content.relative
        self.notes = tuple(str(fault) for fault in faults if not fault.fatal)

    @property
    def used(self) -> list[int]:
        """Indices of the categories that have boxes."""
        return sorted({box.category for box in self.boxes})

    def match(self, names: Sequence[str]) -> matching.ClassMapping:
        """Return for each class of a detector the index of its category, or None. Raises ConfigError, naming unmatched
        ones.
        """
        return matching.match(names, self.categories, self.used, str(self.path))

    def read(self) -> Iterator[tuple[LabeledImage, Image]]:
        """Yield each image with its pixels, BGR uint8 [H, W, 3], in the orientation that matches the labels' size.

        Raises ImageError for an image that cannot be read, ConfigError for one of a different size.
        """
        with ThreadPoolExecutor(1) as pool:
            ahead = iter(self.images)
            waiting = [pool.submit(open_image, image, self.path) for image in islice(ahead, AHEAD)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(open_image, image, self.path) for image in islice(ahead, 1)]

    def sizes(self) -> dict[int, Size]:
        """Return image sizes by number: those in the labels, or those of the images if boxes are relative."""
        if self.relative:
            return {image.number: _size(pixels) for image, pixels in self.read()}
        return {image.number: image.size for image in self.images if image.size is not None}

    def check_sizes(self, sizes: Mapping[int, Size]) -> None:
        """Raise ConfigError if boxes do not fit the real image sizes, by image number."""
        faults = Faults()
        check_geometry(self.boxes, sizes, self.relative, faults)
        _raise(faults, self.path)

    def require(self, task: Task) -> None:
        """Raise ConfigError unless the labels have what a detector of this task is scored with."""
        images = {box.image for box in self.boxes}
        if task == "classify" and len(images) < len(self.boxes):
            raise ConfigError(f"{self.path}: found several labels per image, needed one to score a classifier")
        require_shapes(self.as_coco(defaultdict(lambda: (1, 1))), task, str(self.path))

    def as_coco(self, sizes: Mapping[int, Size]) -> dict[str, list[dict[str, Any]]]:
        """Return the labels in pycocotools' form: ids from 1, since it ignores a box with id 0, and boxes in pixels."""
        boxes = []
        for number, box in enumerate(self.boxes, 1):
            wide, high = sizes[box.image] if self.relative else (1, 1)
            x, y, width, height = box.xywh
            xywh = [x * wide, y * high, width * wide, height * high]
            area = xywh[2] * xywh[3] if box.area is None else box.area
            ids = {"id": number, "image_id": box.image, "category_id": box.category + 1}
            shape = _shape(box, np.array([wide, high]))
            boxes.append({**ids, "bbox": xywh, "area": area, "iscrowd": int(box.crowd), **shape})
        images: list[dict[str, Any]] = []
        for image in self.images:
            size = image.size or sizes.get(image.number)
            known = {} if size is None else {"width": size[0], "height": size[1]}
            images.append({"id": image.number, "file_name": image.name, **known})
        categories = [{"id": index, "name": category.name} for index, category in enumerate(self.categories, 1)]
        return {"images": images, "annotations": boxes, "categories": categories}


def inspect_labels(annotations: Path, images: Path | None = None) -> tuple[Content, Faults]:
    """Return an annotation file's content, and every fault in it, fatal or not. Raises ConfigError without labels."""
    faults = Faults()
    reader = read_yolo if annotations.suffix.lower() in YAML else read_coco
    if annotations.is_dir():
        reader = read_class_folders
    if images is not None and not images.is_dir():
        raise ConfigError(f"no folder {images}: needed the annotated images")
    content = _without_repeats(reader(annotations, images, faults), faults)
    sizes = {image.number: image.size for image in content.images if image.size is not None}
    check_geometry(content.boxes, sizes, content.relative, faults)
    if not content.boxes and not faults.fatal:
        raise ConfigError(f"{annotations} has {len(content.images)} images and no box: needed some")
    return content, faults


def _without_repeats(content: Content, faults: Faults) -> Content:
    """Each box once: its repetition would count as an object that no detector can find."""
    boxes: dict[tuple[object, ...], LabeledBox] = {}
    for box in content.boxes:
        if boxes.setdefault((box.image, box.category, box.xywh, box.crowd), box) is not box:
            faults.add("boxes listed twice", "each counts once", box.source, fatal=False)
    return replace(content, boxes=tuple(boxes.values()))


def annotation_file(path: Path) -> Path:
    """Return the annotation file `path`, or the only one in that folder. Raises ConfigError."""
    if not path.is_dir():
        return path
    files = sorted({file for pattern in COCO_FILES for file in path.glob(pattern)})
    files = files or sorted(file for name in ("data.yaml", "dataset.yaml") if (file := path / name).is_file())
    if not files and is_class_folders(path):
        return path
    if len(files) != 1:
        raise ConfigError(f"found {len(files)} annotation files in {path}, needed one: name the file")
    return files[0]


def files_of(annotations: Path) -> list[Path]:
    """Return every file that labels are read from: the annotation file, and the text files of a YOLO data set; the
    images where their folders are their classes.
    """
    path = annotation_file(annotations)
    if path.is_dir():
        return [image.path for image in inspect_labels(path)[0].images]
    if path.suffix.lower() not in YAML:
        return [path]
    content, _ = inspect_labels(path)
    return [path, *(file for image in content.images if (file := label_file(image.path)).is_file())]


def open_image(image: LabeledImage, labels: Path) -> tuple[LabeledImage, Image]:
    """Read an image, in the orientation that matches its stated size. Raises ImageError, ConfigError."""
    pixels = read_image(image.path)
    if image.size is None or _size(pixels) == image.size:
        return image, pixels
    stored = read_image(image.path, apply_orientation=False)
    if _size(stored) == image.size:
        return image, stored
    actual, stated = "x".join(map(str, _size(pixels))), "x".join(map(str, image.size))
    raise ConfigError(
        f"{image.path} is {actual}, {labels} says {stated}: the labels belong to images of another size; use those"
    )


def _shape(box: LabeledBox, share: NDArray[np.int64]) -> dict[str, Any]:
    """Return masks and keypoints in pixels, as pycocotools reads them. `share`: pixels per unit of x and y."""
    shape: dict[str, Any] = {}
    if isinstance(box.segmentation, dict):
        shape["segmentation"] = box.segmentation
    elif box.segmentation is not None:
        polygons = [np.reshape(polygon, (-1, 2)) * share for polygon in box.segmentation]
        shape["segmentation"] = [polygon.reshape(-1).tolist() for polygon in polygons]
    if box.keypoints is not None:
        points = np.reshape(box.keypoints, (-1, 3)) * np.array([*share, 1])
        shape |= {"keypoints": points.reshape(-1).tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
    return shape


def _size(image: Image) -> Size:
    return image.shape[1], image.shape[0]


def _raise(faults: Faults, path: Path) -> None:
    fatal: list[Fault] = faults.fatal
    if fatal:
        more = f" (and {len(fatal) - 1} more kinds of faults)" if len(fatal) > 1 else ""
        raise ConfigError(f"{path}: {fatal[0]}{more}; 'edgesparse check-labels {path}' lists every fault")
