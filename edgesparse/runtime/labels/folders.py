"""Reads the labels of classifiers: a folder of images per class, named after it."""

from __future__ import annotations

from pathlib import Path

from edgesparse.runtime.images import is_image, natural_order
from edgesparse.runtime.labels.base import Category, Content, Faults, LabeledBox, LabeledImage


def is_class_folders(path: Path) -> bool:
    """Whether a folder has at least two folders, with images in the first."""
    folders = _folders(path)
    return len(folders) > 1 and any(is_image(file) for file in folders[0].iterdir())


def read_class_folders(path: Path, folder: Path | None, faults: Faults) -> Content:
    """Read a folder per class; each image has a box around it all. `folder` is not used: the images are the labels."""
    folders = _folders(path)
    files = [
        (number, file)
        for number, each in enumerate(folders)
        for file in sorted(filter(is_image, each.iterdir()), key=natural_order)
    ]
    images = tuple(
        LabeledImage(number, f"{file.parent.name}/{file.name}", file) for number, (_, file) in enumerate(files, 1)
    )
    boxes = tuple(
        LabeledBox(number, category, (0.0, 0.0, 1.0, 1.0), source=str(file))
        for number, (category, file) in enumerate(files, 1)
    )
    empty = [each.name for each in folders if not any(map(is_image, each.iterdir()))]
    faults.add_all("classes without an image", "they are not scored", empty, fatal=False)
    categories = tuple(Category(number, each.name) for number, each in enumerate(folders))
    return Content(images, boxes, categories, path, relative=True)


def _folders(path: Path) -> list[Path]:
    return sorted((each for each in path.iterdir() if each.is_dir()), key=natural_order)
