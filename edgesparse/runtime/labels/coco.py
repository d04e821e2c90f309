"""Reads COCO JSON, as COCO, Roboflow, CVAT, Label Studio and others write it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from edgesparse.errors import ConfigError
from edgesparse.files import read_checked
from edgesparse.runtime.labels.base import (
    Category,
    Content,
    Faults,
    LabeledBox,
    LabeledImage,
    Size,
    Xywh,
    key_of,
    number_of,
    require_unique,
)
from edgesparse.runtime.labels.matching import match

PARTS = ("images", "annotations", "categories")
SUGGESTIONS = "suggestions"
"""Marks a file of boxes that a detector found, which are to be corrected."""
NEEDED = "needed images, annotations and categories"


def read_coco(path: Path, folder: Path | None, faults: Faults) -> Content:
    """Read a file. `folder` holds its images; by default they are searched next to it. Raises ConfigError if it is not
    COCO JSON.
    """
    content = _load(path)
    categories = _categories(content["categories"], faults)
    images, numbers, base = _images(content["images"], path, folder, faults)
    boxes = tuple(_boxes(content["annotations"], numbers, categories, faults))
    return Content(images, boxes, tuple(categories.values()), base)


@dataclass(frozen=True)
class DataSetIds:
    """A COCO file's ids: of its categories, and of its images by file name without suffix."""

    path: Path
    categories: tuple[Category, ...]
    images: dict[str, int | str]
    used: tuple[int, ...]
    """Indices of the categories that have boxes."""

    def class_ids(self, names: Sequence[str]) -> tuple[int | str | None, ...]:
        """Return the category id of each class. Raises ConfigError if a category is not a class."""
        mapping = match(names, self.categories, self.used, str(self.path))
        return tuple(None if index is None else self.categories[index].id for index in mapping)


def read_ids(path: Path) -> DataSetIds:
    """Return the ids in a COCO JSON file. Raises ConfigError."""
    content, faults = _load(path), Faults()
    categories = _categories(content["categories"], faults)
    if faults.fatal:
        raise ConfigError(f"{path}: {faults.fatal[0]}")
    names = ((PurePosixPath(str(image.get("file_name")).replace("\\", "/")).stem, image) for image in content["images"])
    images = {name: image["id"] for name, image in names if isinstance(image.get("id"), int | str)}
    boxed = {key_of(box.get("category_id")) for box in content["annotations"]}
    used = tuple(index for index, key in enumerate(categories) if key in boxed)
    return DataSetIds(path, tuple(categories.values()), images, used)


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        text = read_checked(path).decode("utf-8-sig")
        content = json.loads(text)
        if any(text.count(f'"{part}"') > 1 for part in PARTS):  # JSON keeps the last of two lists with one name
            json.loads(text, object_pairs_hook=require_unique)
    except FileNotFoundError:
        raise ConfigError(f"no annotations {path}: pass a COCO JSON file or a YOLO data.yaml") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not COCO JSON: it is not UTF-8 text; {NEEDED}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not COCO JSON ({error}): {NEEDED}") from None
    if not isinstance(content, dict):
        kind = "a list, as COCO results are" if isinstance(content, list) else type(content).__name__
        raise ConfigError(f"{path} is not COCO JSON: found {kind}: {NEEDED}")
    if isinstance(info := content.get("info"), dict) and info.get("edgesparse") == SUGGESTIONS:
        raise ConfigError(f"{path} holds a detector's own boxes, needed labels: correct them in a labeling tool")
    for part in PARTS:
        _check_part(content, part, path)
    return content


def _check_part(content: dict[str, Any], part: str, path: Path) -> None:
    entries = content.get(part)
    if not isinstance(entries, list):
        kind = type(entries).__name__ if part in content else "nothing"
        raise ConfigError(f"{path} is not COCO JSON: found {kind} in place of the list '{part}': {NEEDED}")
    if not entries:
        raise ConfigError(f"{path} has no {part}: {NEEDED}")
    if not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path} is not COCO JSON: '{part}' holds entries that are no mappings: {NEEDED}")


def _categories(entries: list[dict[str, Any]], faults: Faults) -> dict[str, Category]:
    categories: dict[str, Category] = {}
    names: set[str] = set()
    for entry in entries:
        key = key_of(entry.get("id"))
        if key is None:
            faults.add("categories without an id", "give each a number", str(entry.get("name")))
            continue
        name = str(entry.get("name") if entry.get("name") is not None else key)
        if key in categories:
            faults.add("categories with the id of another", "give each its own id", f"{key}: {name}")
            continue
        if name in names:
            faults.add("categories with the name of another", "merge them, or rename one", name)
        names.add(name)
        categories[key] = Category(int(key) if key.isdecimal() else key, name)
    return dict(sorted(categories.items(), key=lambda item: (isinstance(item[1].id, str), item[1].id)))


def _images(
    entries: list[dict[str, Any]], path: Path, folder: Path | None, faults: Faults
) -> tuple[tuple[LabeledImage, ...], dict[str, int], Path]:
    names = [str(entry.get("file_name") or "") for entry in entries]
    base = folder or _folder(path, names)
    index = _Index(base)
    images: list[LabeledImage] = []
    numbers: dict[str, int] = {}
    seen: set[Path] = set()
    for entry, name in zip(entries, names, strict=True):
        key = key_of(entry.get("id"))
        if key is None or not name:
            faults.add("images without an id or a file_name", "give each both", name or str(entry.get("id")))
            continue
        if key in numbers:
            if images[numbers[key] - 1].name == name:
                faults.add("images listed twice", "list each once", name)
            else:
                faults.add("images with the id of another", "give each its own id", f"{key}: {name}")
            continue
        file = index.find(name)
        if file is None:
            faults.add(
                f"images missing in {base}",
                "name their folder with --images (--annotated-images where --images are others), or accept.images",
                name,
            )
            file = base / PurePosixPath(name.replace("\\", "/")).name
        elif file in seen:
            faults.add("images listed twice", "list each once", name)
        seen.add(file)
        numbers[key] = len(images) + 1
        images.append(LabeledImage(numbers[key], name, file, _size(entry)))
    return tuple(images), numbers, base


def _size(entry: Mapping[str, Any]) -> Size | None:
    width, height = number_of(entry.get("width")), number_of(entry.get("height"))
    return (int(width), int(height)) if width and height and width > 0 and height > 0 else None


def _folder(path: Path, names: list[str]) -> Path:
    """Return the annotations' folder, or one of its subfolders, that contains the first image."""
    first = next((name for name in names if name), "")
    for base in (path.parent, *sorted(p for p in path.parent.iterdir() if p.is_dir())):
        if _Index(base).find(first, deep=False):
            return base
    return path.parent


MOST_FILES = 200_000
"""Most files to search for an image below a folder; more mean that the wrong folder was named."""


class _Index:
    """Finds images by their names in labels, which may have other separators or another machine's folders."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._names: dict[str, list[Path]] | None = None

    def find(self, name: str, *, deep: bool = True) -> Path | None:
        """Return the file with this path or, with `deep`, the only file of this name below the folder."""
        plain = PurePosixPath(name.replace("\\", "/"))
        for candidate in (Path(name), plain, Path(plain.name)):
            file = self._base / candidate
            if _is_file(file):
                return file
        if not deep:
            return None
        if self._names is None:
            self._names = {}
            files = (Path(folder, file) for folder, _, names in os.walk(self._base) for file in sorted(names))
            for file in islice(files, MOST_FILES):
                self._names.setdefault(file.name, []).append(file)
        same = self._names.get(plain.name, [])
        return same[0] if len(same) == 1 and _is_file(same[0]) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system allows
        return False


def _boxes(
    entries: list[dict[str, Any]], images: Mapping[str, int], categories: Mapping[str, Category], faults: Faults
) -> Iterator[LabeledBox]:
    order = {key: index for index, key in enumerate(categories)}
    for position, entry in enumerate(entries, 1):
        source = f"annotation {entry.get('id', f'at position {position}')}"
        image, category = images.get(key_of(entry.get("image_id")) or ""), key_of(entry.get("category_id"))
        if image is None:
            example = f"{source}: image {entry.get('image_id')}"
            faults.add("boxes of unknown images", "they are left out", example, fatal=False)
            continue
        if category is None or category not in order:
            example = f"{source}: category {entry.get('category_id')}"
            faults.add("boxes of unknown categories", "add the categories, or remove the boxes", example)
            continue
        xywh = _xywh(entry, source, faults)
        if xywh is None:
            continue
        area = number_of(entry.get("area"))
        crowd = entry.get("iscrowd") in (1, True, "1")
        area = area if area and area > 0 else None
        segmentation, keypoints = _segmentation(entry.get("segmentation")), _keypoints(entry.get("keypoints"))
        yield LabeledBox(image, order[category], xywh, area, crowd, source, segmentation, keypoints)


def _segmentation(value: object) -> tuple[tuple[float, ...], ...] | dict[str, Any] | None:
    """Return polygons, or run lengths, of an annotation; None for anything else."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        return value if isinstance(size, list) and len(size) == 2 and isinstance(counts, list | str) else None
    polygons = _numbers(value)
    return polygons if polygons and all(len(each) >= 6 and len(each) % 2 == 0 for each in polygons) else None


def _keypoints(value: object) -> tuple[float, ...] | None:
    points = _numbers([value])
    return points[0] if points and points[0] and len(points[0]) % 3 == 0 else None


def _numbers(lists: object) -> tuple[tuple[float, ...], ...] | None:
    """Return lists of finite numbers; None if anything in them is none."""
    if not isinstance(lists, list) or not all(isinstance(each, list) for each in lists):
        return None
    numbers = [[number_of(value) for value in each] for each in lists]
    if any(value is None for each in numbers for value in each):
        return None
    return tuple(tuple(value for value in each if value is not None) for each in numbers)


def _xywh(entry: Mapping[str, Any], source: str, faults: Faults) -> Xywh | None:
    values = entry.get("bbox") or _around(entry.get("segmentation"))
    if not isinstance(values, list | tuple) or len(values) != 4:
        faults.add("annotations without a box or a polygon", "give each a bbox of x, y, width, height", source)
        return None
    x, y, width, height = map(number_of, values)
    if x is None or y is None or width is None or height is None:
        faults.add("boxes that are not four finite numbers", "correct or remove them", f"{source}: {values}")
        return None
    if width < 0 or height < 0:
        faults.add("boxes of negative size", "write x, y, width, height", f"{source}: {values}")
        return None
    attributes = entry.get("attributes")
    if isinstance(attributes, dict) and number_of(attributes.get("rotation")):
        faults.add("boxes with a rotation, as CVAT writes them", "export polygons: the box is that before it", source)
        return None
    if width == 0 or height == 0:
        faults.add("boxes without area", "they are left out", source, fatal=False)
        return None
    return x, y, width, height


def _around(segmentation: object) -> list[float] | None:
    """Return the bounding box of polygons, each a list of x, y, x, y, ...; None for others, such as run lengths."""
    if not isinstance(segmentation, list):
        return None
    polygons = segmentation if all(isinstance(polygon, list) for polygon in segmentation) else [segmentation]
    numbers = [[number_of(value) for value in polygon] for polygon in polygons]
    xs = [value for polygon in numbers for value in polygon[0::2]]
    ys = [value for polygon in numbers for value in polygon[1::2]]
    if not xs or len(xs) != len(ys) or None in xs or None in ys:
        return None
    left, top = min(x for x in xs if x is not None), min(y for y in ys if y is not None)
    right, bottom = max(x for x in xs if x is not None), max(y for y in ys if y is not None)
    return [left, top, right - left, bottom - top]
