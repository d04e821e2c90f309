"""Exports images of the scene as a data set with COCO JSON."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.demo.scene import CLASSES, Labels, Scene, still
from edgesparse.errors import ConfigError, SinkError
from edgesparse.progress import Progress, quiet

Image = NDArray[np.uint8]
QUALITY = 95  # JPEG quality


@dataclass(frozen=True)
class SceneFormat:
    """`height` and `width` in pixels; `kind`: "jpg" (quality 95) or "png"; `moving`: frames of one belt instead of
    separate scenes.
    """

    height: int = 480
    width: int = 640
    kind: Literal["jpg", "png"] = "jpg"
    moving: bool = False


def export(
    folder: Path,
    count: int,
    seed: int,
    *,
    scene: SceneFormat = SceneFormat(),
    force: bool = False,
    progress: Progress = quiet,
) -> None:
    """Write `count` images, with the seeds `seed`, `seed` + 1 and so on, or frames of one moving scene.

    They go to `folder`/images/000000.jpg ... and their labels to `folder`/instances.json: COCO boxes (x, y, width,
    height in pixels; area: the box's), category ids in the order of CLASSES, file names relative to images/. The folder
    appears complete or not at all. Raises ConfigError for a count below one, another kind of image, or a folder that is
    not empty: `force` replaces a previous export, and nothing else. SinkError if a file cannot be written.
    """
    if count < 1:
        raise ConfigError(f"found {count} images, needed at least 1")
    if scene.kind not in ("jpg", "png"):
        raise ConfigError(f"found images of kind {scene.kind!r}, needed jpg or png")
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not _is_empty(folder):
        if not _is_export(folder):
            raise ConfigError(f"{folder} exists and is not a demo export: name another folder")
        if not force:
            raise ConfigError(f"{folder} exists: pass --force to replace it, or name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            whole = Path(temporary) / "new"
            (whole / "images").mkdir(parents=True)
            frames = (_moving if scene.moving else _stills)(seed, (scene.height, scene.width))
            dataset = _write_images(whole, islice(frames, count), count, scene.kind, progress)
            dataset["info"] = {"seed": seed, "moving": scene.moving}
            (whole / "instances.json").write_text(json.dumps(dataset) + "\n", encoding="utf-8")
            _swap(whole, folder, Path(temporary) / "old")
    except OSError as error:
        raise SinkError(f"cannot write {folder}: {error.strerror or error}: name another folder") from error


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _is_export(folder: Path) -> bool:
    """Whether the folder contains only a previous export, which may be replaced."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != {"images", "instances.json"}:
        return False
    try:
        return "seed" in json.loads((folder / "instances.json").read_text())["info"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_images(
    folder: Path,
    frames: Iterator[tuple[Image, Labels]],
    count: int,
    kind: str,
    progress: Progress,
) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (frame, labels) in enumerate(frames):
        name = f"{index:06d}.{kind}"
        settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if kind == "jpg" else []
        encoded, data = cv2.imencode(f".{kind}", frame, settings)
        if not encoded:
            raise OSError("OpenCV could not encode an image")
        (folder / "images" / name).write_bytes(data.tobytes())
        images.append({"id": index, "file_name": name, "height": frame.shape[0], "width": frame.shape[1]})
        annotations += _annotations(labels, index, len(annotations))
        progress("drawing", index + 1, count)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _stills(seed: int, size: tuple[int, int]) -> Iterator[tuple[Image, Labels]]:
    for number in count_from(seed):
        yield still(number, height=size[0], width=size[1])


def _moving(seed: int, size: tuple[int, int]) -> Iterator[tuple[Image, Labels]]:
    scene = Scene(seed, height=size[0], width=size[1])
    while True:
        yield scene.render()


def _annotations(labels: Labels, image: int, first: int) -> list[dict[str, Any]]:
    """Return COCO JSON. Annotation ids start at 1, since COCO's scoring takes id 0 for "no match"."""
    annotations: list[dict[str, Any]] = []
    for (x, y, right, bottom), class_id in zip(labels.xyxy.tolist(), labels.class_id.tolist(), strict=True):
        box = [x, y, right - x, bottom - y]
        which = {"id": first + len(annotations) + 1, "image_id": image, "category_id": class_id}
        annotations.append({**which, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    return annotations


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Move `new` to `folder`; the old content moves to `old`, and back if that fails."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
