"""COCO mAP of a detector on labelled images, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, Run
from edgesparse.errors import BackendUnavailable, ConfigError
from edgesparse.model.load import Model, save
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.images import read_image

SCORING = Run(conf=0.001, iou=0.65, max_det=300, multi_label=True)
"""How COCO is scored by custom: nearly every box and class, so that the whole precision-recall curve is seen."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ClassScore:
    name: str
    map: float
    map50: float
    boxes: int


@dataclass(frozen=True)
class Evaluation:
    """Points, 0..100. `map` is over IoU 0.50 to 0.95; small, medium, large by COCO's areas; -1 where nothing is."""

    map: float
    map50: float
    map75: float
    small: float
    medium: float
    large: float
    classes: tuple[ClassScore, ...]
    images: int


class Labels:
    """COCO annotations and where their images lie. Raises ConfigError when they cannot be read or name no image."""

    def __init__(self, annotations: Path, images: Path | None = None) -> None:
        self.path = annotations
        try:
            said = json.loads(annotations.read_text())
            self.images = [{**i, "id": int(i["id"]), "file_name": str(i["file_name"])} for i in said["images"]]
            self.boxes = [_box(number, box) for number, box in enumerate(said["annotations"], 1)]
            self.categories: list[dict[str, Any]] = sorted(said["categories"], key=lambda c: int(c["id"]))
        except FileNotFoundError:
            raise ConfigError(f"no annotations {annotations}: give a COCO JSON file") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{annotations} is not COCO JSON ({error!r}): needed images, annotations, categories"
            ) from None
        if not self.images or not self.boxes:
            raise ConfigError(f"{annotations} holds {len(self.images)} images and {len(self.boxes)} boxes: needed some")
        self.folder = images or self._folder()

    def _folder(self) -> Path:
        """Beside the annotations: that folder, or one of its folders, that holds the first image."""
        first = self.images[0]["file_name"]
        around = [self.path.parent, *sorted(p for p in self.path.parent.iterdir() if p.is_dir())]
        for folder in around:
            if (folder / first).is_file():
                return folder
        raise ConfigError(f"cannot find {first} of {self.path} in {self.path.parent}: give the folder with --images")

    def read(self) -> Iterator[tuple[int, Image]]:
        """(image id, BGR uint8 [H, W, 3]); the next ones are decoded while this one is used."""

        def decoded(image: dict[str, Any]) -> tuple[int, Image]:
            path = self.folder / image["file_name"]
            return int(image["id"]), read_image(path)

        with ThreadPoolExecutor(1) as pool:
            ahead = iter(self.images)
            waiting = [pool.submit(decoded, image) for image in islice(ahead, 4)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(decoded, image) for image in islice(ahead, 1)]

    def category_ids(self, names: Sequence[str]) -> list[int]:
        """Category id of each class: by name where every category has one, else in the order of the ids."""
        by_name = {category.get("name"): int(category["id"]) for category in self.categories}
        if all(name in names for name in by_name):
            return [by_name.get(name, -1) for name in names]
        if len(names) == len(self.categories):
            return [int(category["id"]) for category in self.categories]
        raise ConfigError(
            f"{self.path} has {len(self.categories)} categories, the detector {len(names)} classes, and their names "
            "differ: set 'classes:' in the recipe to the data set's names"
        )


def _box(number: int, box: Mapping[str, Any]) -> dict[str, Any]:
    """One annotation, numbered anew from 1: pycocotools takes the box of id 0 for none."""
    x, y, width, height = map(float, box["bbox"])
    ids = {"id": number, "image_id": int(box["image_id"]), "category_id": int(box["category_id"])}
    return {"iscrowd": 0, "area": width * height, **box, **ids, "bbox": [x, y, width, height]}


def evaluate(
    detector: Detector, labels: Labels, progress: Callable[[int, int], None] = lambda done, total: None
) -> Evaluation:
    """Score a detector (made with SCORING) on labelled images. Raises BackendUnavailable without pycocotools."""
    _import()
    ids = labels.category_ids(detector.spec.classes)
    rows: list[list[float]] = []
    batch: list[tuple[int, Image]] = []
    total = len(labels.images)
    for done, item in enumerate(labels.read(), 1):
        batch.append(item)
        if len(batch) == detector.batch or done == total:
            for (image, _), found in zip(batch, detector.detect([p for _, p in batch]), strict=True):
                rows += _rows(image, found, ids)
            batch.clear()
            progress(done, total)
    return _score(labels, rows, detector.spec.classes, ids)


def score_model(model: Model, spec: DetectorSpec, labels: Labels, progress: Callable[[int, int], None]) -> float:
    """COCO mAP, 0..100, of a float or Q/DQ model in memory, run by ONNX Runtime. Raises as `Detector`, `evaluate`."""
    with tempfile.TemporaryDirectory(prefix="edgesparse-") as folder:
        path = Path(folder, "model.onnx")
        save(model, path)
        with Detector(backend("onnxruntime").load(path), spec, SCORING) as detector:
            return evaluate(detector, labels, progress).map


def _rows(image: int, found: Detections, ids: Sequence[int]) -> list[list[float]]:
    """As pycocotools takes them: image, x, y, width, height, score, category."""
    return [
        [image, x1, y1, x2 - x1, y2 - y1, float(score), ids[label]]
        for (x1, y1, x2, y2), score, label in zip(
            found.xyxy.tolist(), found.confidence, found.class_id.tolist(), strict=True
        )
    ]


def _score(labels: Labels, rows: list[list[float]], names: Sequence[str], ids: Sequence[int]) -> Evaluation:
    coco, coco_eval = _import()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = {"images": labels.images, "annotations": labels.boxes, "categories": labels.categories}
        truth.createIndex()
        found = truth.loadRes(np.array(rows, np.float64).reshape(-1, 7)) if rows else None
        if found is None:
            return Evaluation(0, 0, 0, 0, 0, 0, (), len(labels.images))
        run = coco_eval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    total, half, strict, small, medium, large = (100 * float(v) if v >= 0 else -1.0 for v in run.stats[:6])
    classes = _by_class(run, labels, dict(zip(ids, names, strict=True)))
    return Evaluation(total, half, strict, small, medium, large, classes, len(labels.images))


def _by_class(run: Any, labels: Labels, names: Mapping[int, str]) -> tuple[ClassScore, ...]:
    """Of the classes that have boxes: precision is [IoU, recall, class, area, detections]; every area, most boxes."""
    precision = run.eval["precision"][:, :, :, 0, 2]
    boxes = Counter(int(box["category_id"]) for box in labels.boxes)
    columns = {int(category): precision[:, :, i] for i, category in enumerate(run.params.catIds)}
    return tuple(
        ClassScore(names.get(category, str(category)), _mean(columns[category]), _mean(columns[category][0]), count)
        for category, count in sorted(boxes.items())
    )


def _mean(precision: NDArray[np.float64]) -> float:
    """In points; -1, COCO's mark for 'nothing there', does not count."""
    seen = precision[precision > -1]
    return 100 * float(seen.mean()) if seen.size else 0.0


def _import() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise BackendUnavailable(f"scoring needs pycocotools ({error}): pip install 'edgesparse[eval]'") from error
    return COCO, COCOeval
