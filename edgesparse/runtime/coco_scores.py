"""COCO's average precision by pycocotools, for boxes, masks, keypoints and rotated boxes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import BackendUnavailable, ConfigError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.heads.base import Task
from edgesparse.runtime.rotated import overlap

METRICS: dict[Task, str] = {
    "detect": "mAP",
    "segment": "mask mAP",
    "pose": "keypoint mAP",
    "obb": "rotated mAP",
    "classify": "top-1",
}
"""The shape by which a detector of each task is scored."""
NEEDED: dict[Task, str] = {"segment": "segmentation", "pose": "keypoints", "obb": "segmentation"}
"""The key of an annotation by which a task is scored, besides its box."""
_KINDS: dict[Task, str] = {"detect": "bbox", "segment": "segm", "pose": "keypoints", "obb": "bbox"}

Truth = dict[str, list[dict[str, Any]]]


def shapes_of(detections: Detections) -> list[dict[str, Any]]:
    """Return, per detection, what COCO results hold besides its box; nothing for plain detections."""
    if detections.masks is not None:
        return [{"segmentation": mask.as_coco()} for mask in detections.masks]
    if detections.keypoints is not None:
        return [{"keypoints": points.reshape(-1).tolist()} for points in detections.keypoints]
    if detections.rotated is not None:
        return [{"rotated": box.tolist()} for box in detections.rotated]
    return [{}] * len(detections)


def require_shapes(truth: Truth, task: Task, where: str) -> None:
    """Raise ConfigError if labels have only boxes and a task needs more."""
    key = NEEDED.get(task)
    if key is None:
        return
    missing = sum(not box.get(key) for box in truth["annotations"])
    if missing and (key != "keypoints" or missing == len(truth["annotations"])):
        total = len(truth["annotations"])
        what = {"segment": "masks", "pose": "keypoints", "obb": "rotated boxes (four corners each)"}[task]
        raise ConfigError(f"{where}: {missing} of {total} labels have a box only: needed {what} to score this detector")


def run_coco(task: Task, truth: Truth, rows: Sequence[Sequence[float]], shapes: Sequence[dict[str, Any]]) -> Any:
    """Return a finished COCOeval, or None without any detection.

    `rows`: image, x, y, width, height, score and category of each detection; `shapes`: the rest of it (`shapes_of`).
    Keypoints are scored by OKS: with COCO's sigmas for its 17, otherwise with one sigma for all, as in Ultralytics.
    Rotated boxes are scored by the overlap of rotated rectangles. Raises BackendUnavailable without pycocotools.
    """
    coco, coco_eval = import_pycocotools()
    if not rows:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        labeled = coco()
        labeled.dataset = truth
        labeled.createIndex()
        run = coco_eval(labeled, labeled.loadRes(_results(task, rows, shapes)), _KINDS[task])
        if task == "obb":
            vars(run)["computeIoU"] = partial(_rotated, run)
        if task == "pose":
            count = len(shapes[0]["keypoints"]) // 3
            if count != len(run.params.kpt_oks_sigmas):
                run.params.kpt_oks_sigmas = np.full(count, 1 / count)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def points_of(run: Any, task: Task) -> list[float]:
    """Return points over IoU 0.50 to 0.95, at 0.50, at 0.75, and of small, medium and large objects; -1 without any."""
    stats = list(run.stats[:6]) if task != "pose" else [*run.stats[:3], -1.0, *run.stats[3:5]]
    return [100 * float(value) if value >= 0 else -1.0 for value in stats]


def _results(task: Task, rows: Sequence[Sequence[float]], shapes: Sequence[dict[str, Any]]) -> Any:
    if task == "detect":
        return np.array(rows, np.float64).reshape(-1, 7)
    results = []
    for (image, x, y, width, height, score, category), shape in zip(rows, shapes, strict=True):
        box = {"bbox": [x, y, width, height]} if task == "obb" else {}
        results.append({"image_id": int(image), "category_id": int(category), "score": score, **box, **shape})
    return results


def _rotated(run: Any, image: int, category: int) -> Any:
    """Return the overlap of detections and labels, as COCOeval computes it, for rotated boxes."""
    true, detected = run._gts[image, category], run._dts[image, category]
    order = np.argsort([-each["score"] for each in detected], kind="mergesort")[: run.params.maxDets[-1]]
    if not true or not len(order):
        return []
    boxes = np.array([detected[i]["rotated"] for i in order], np.float64)
    return overlap(boxes, np.concatenate([rotated_label(each["segmentation"]) for each in true]))


def rotated_label(segmentation: list[list[float]]) -> NDArray[np.float64]:
    """Return the smallest rotated box [1, 5] around a labeled polygon."""
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation]).astype(np.float32)
    (x, y), (width, height), degrees = cv2.minAreaRect(points)
    return np.array([[x, y, width, height, np.radians(degrees)]])


def import_pycocotools() -> tuple[Any, Any]:
    """Return COCO and COCOeval. Raises BackendUnavailable."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise BackendUnavailable(f"scoring needs pycocotools ({error}): pip install 'edgesparse[eval]'") from error
    return COCO, COCOeval
