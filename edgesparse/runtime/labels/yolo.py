"""Reads YOLO data sets: data.yaml, folders or lists of images, and a text file of boxes per image.

https://docs.ultralytics.com/datasets/detect/ describes the format; Roboflow writes paths relative to a folder
that does not exist, which are resolved too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesparse.errors import ConfigError
from edgesparse.files import read_checked
from edgesparse.runtime.images import SUFFIXES, is_image, natural_order
from edgesparse.runtime.labels.base import (
    Category,
    Content,
    Faults,
    LabeledBox,
    LabeledImage,
    Xywh,
    number_of,
    one_line,
)
from edgesparse.typed import read_mapping

SPLITS = ("val", "valid", "test", "train")
EDGE = 0.01
"""How far a coordinate may exceed 0..1 because of rounding."""


def read_yolo(path: Path, folder: Path | None, faults: Faults) -> Content:
    """Read a data.yaml. `folder` holds the images; by default those of `val` are used. Raises ConfigError."""
    content = read_mapping(path, "data set", "pass a YOLO data.yaml or a COCO JSON file", "'names:' and 'val:'")
    categories = tuple(Category(number, name) for number, name in enumerate(_names(content, path, faults)))
    files = sorted({*_images_in(folder)}, key=natural_order) if folder else _split(content, path)
    if not files:
        raise ConfigError(f"{path}: no images in {folder or 'its folders'}: needed {' '.join(sorted(SUFFIXES))}")
    images = tuple(LabeledImage(number, file.name, file) for number, file in enumerate(files, 1))
    absent = [image.name for image in images if not _is(image.path, Path.is_file)]
    faults.add_all("images that do not exist", "correct the list, or add them", absent)
    labels = {image.number: label_file(image.path) for image in images}
    missing = [image.name for image in images if not _is(labels[image.number], Path.is_file)]
    if len(missing) == len(images):
        raise ConfigError(f"{path}: no label files for {len(images)} images: needed {labels[1]} and the like")
    faults.add_all("images without a label file", "they count as images without objects", missing, fatal=False)
    values = _keypoint_values(content, path)
    boxes = tuple(
        box
        for image in images
        if _is(labels[image.number], Path.is_file)
        for box in _boxes(labels[image.number], image.number, _Columns(len(categories), values), faults)
    )
    return Content(images, boxes, categories, folder or files[0].parent, relative=True)


def label_file(image: Path) -> Path:
    """Return an image's label file: in `labels/` instead of the last `images/`, else next to the image."""
    parts = list(image.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            file = Path(*parts[:position], "labels", *parts[position + 1 :]).with_suffix(".txt")
            if _is(file, Path.is_file) or not _is(image.with_suffix(".txt"), Path.is_file):
                return file
            break
    return image.with_suffix(".txt")


def _names(content: dict[str, Any], path: Path, faults: Faults) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        keys = [key if isinstance(key, int) else int(key) if str(key).isdecimal() else -1 for key in names]
        if sorted(keys) != list(range(len(names))):
            raise ConfigError(
                f"{path}: names: found the keys {one_line(', '.join(map(str, names)))}, needed 0, 1, 2 ..."
            )
        names = [name for _, name in sorted(zip(keys, names.values(), strict=True))]
    if not isinstance(names, list) or not names:
        raise ConfigError(f"{path}: found no 'names:' with a list of classes, or a mapping from 0, 1, 2 ...")
    if isinstance(count := content.get("nc"), int) and count != len(names):
        faults.add(f"names and nc differ ({len(names)} and {count})", "make them equal")
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    faults.add_all("names of more than one class", "give each class its own", repeated)
    return [str(name) for name in names]


def _split(content: dict[str, Any], path: Path) -> list[Path]:
    """Return the images of the first split in the file: validation before test before training."""
    split = next((name for name in SPLITS if content.get(name)), None)
    if split is None:
        raise ConfigError(f"{path}: found no 'val:', 'test:' or 'train:': needed a folder or list of images")
    root = path.parent / content["path"] if isinstance(content.get("path"), str) else path.parent
    roots = [root, path.parent] if _is(root, Path.is_dir) else [path.parent]
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    if not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"{path}: {split}: needed a folder or list of images, or several, as text")
    files = [file for entry in entries for file in _files(entry, roots, f"{path}: {split}")]
    return sorted({*files}, key=natural_order)


def _files(entry: str, roots: list[Path], where: str) -> list[Path]:
    for root in roots:
        for name in (entry, entry.lstrip("./")):
            place = root / name
            if _is(place, Path.is_dir):
                return list(_images_in(place))
            if _is(place, Path.is_file):
                return [place] if is_image(place) else _listed(place, root)
    places = one_line(" or ".join(map(str, roots)))
    raise ConfigError(f"{where}: no folder or list {one_line(entry)} in {places}: correct the path")


def _is(path: Path, check: Callable[[Path], bool]) -> bool:
    """Whether a path passes `check`; false for a name that no file system allows."""
    try:
        return check(path)
    except (OSError, ValueError):
        return False


def _images_in(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if is_image(file))


def _listed(place: Path, root: Path) -> list[Path]:
    """Return the images in a list: relative to the list with './', else to the data set's root."""
    try:
        lines = [
            line.strip() for line in read_checked(place).decode("utf-8-sig").splitlines() if Path(line.strip()).name
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the list {place}: {error}; needed a text file with an image per line") from None
    return [place.parent / line[2:] if line.startswith("./") else root / line for line in lines]


@dataclass(frozen=True)
class _Columns:
    """What a line may hold: a class below `classes`; `values` per keypoint (x, y, possibly visibility), 0 for none."""

    classes: int
    values: int = 0


def _keypoint_values(content: dict[str, Any], path: Path) -> int:
    """Return the number of values per keypoint; 0 without keypoints."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or shape[1] not in (2, 3):
        raise ConfigError(f"{path}: kpt_shape: found {one_line(str(shape))}, needed a count and 2 or 3, as [17, 3]")
    return int(shape[1])


def _boxes(file: Path, image: int, columns: _Columns, faults: Faults) -> Iterator[LabeledBox]:
    classes = columns.classes
    try:
        lines = read_checked(file).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        faults.add("label files that cannot be read", "replace them", f"{file.name}: {error}")
        return
    for number, line in enumerate(lines, 1):
        fields = line.split()
        source = f"{file.name} line {number}"
        if not fields:
            continue
        values = [number_of(field) for field in fields]
        category = values[0]
        keypoints: tuple[float, ...] | None = None
        if columns.values and len(values) > 5:
            keypoints, values = _points(values[5:], columns.values), values[:5]
        if len(values) < 5 or len(values) % 2 == 0 or any(value is None for value in values):
            faults.add("lines that hold no box", "write class, center x, center y, width, height", f"{source}: {line}")
        elif category is None or category != int(category) or not 0 <= category < classes:
            problem = f"lines with a class that is not a whole number below {classes}"
            faults.add(problem, "correct the class, or add it to 'names:'", f"{source}: {fields[0]}")
        elif (xywh := _xywh([value for value in values[1:] if value is not None], source, faults)) is not None:
            polygon = tuple(value for value in values[1:] if value is not None)
            polygons = (polygon,) if len(polygon) > 4 else None
            yield LabeledBox(image, int(category), xywh, None, False, source, polygons, keypoints)


def _points(values: list[float | None], each: int) -> tuple[float, ...] | None:
    """Return x, y, visibility of keypoints; if it is missing, those not at 0, 0 are visible. None if there are none."""
    if len(values) % each or any(value is None for value in values):
        return None
    points = [[value or 0.0 for value in values[i : i + each]] for i in range(0, len(values), each)]
    return tuple(v for x, y, *seen in points for v in (x, y, seen[0] if seen else 2.0 * (x != 0 or y != 0)))


def _xywh(values: list[float], source: str, faults: Faults) -> Xywh | None:
    """Convert center, width and height, or the corners of a polygon, relative to the image size."""
    if max(values) > 1 + EDGE or min(values) < -EDGE:
        shown = " ".join(f"{value:g}" for value in values[:4])
        faults.add("lines with values outside 0..1", "divide pixels by the image's size", f"{source}: {shown}")
        return None
    if len(values) == 4:
        x, y, width, height = values
        left, top = x - width / 2, y - height / 2
    else:
        left, top = min(values[0::2]), min(values[1::2])
        width, height = max(values[0::2]) - left, max(values[1::2]) - top
    if width <= 0 or height <= 0:
        faults.add("boxes without area", "they are left out", source, fatal=False)
        return None
    return left, top, width, height
