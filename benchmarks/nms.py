"""Number of boxes above which OpenCV's NMS is faster than comparing boxes one by one: the source of FEW in
runtime/boxes.py.

    python benchmarks/nms.py [--save]

Microseconds with warm caches and with cold ones, as after an engine's run. Where boxes are clustered, few are kept;
where none overlap, all are compared with all. Then milliseconds for scoring, where an image has 30,000 candidates:
decoding and NMS of YOLOv8's outputs, and NMS alone compared with OpenCV's, class by class.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.backends.base import TensorSpec
from edgesparse.runtime import nms
from edgesparse.runtime.evaluate import SCORING
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.registry import head

COUNTS = (2, 4, 8, 12, 16, 24, 32, 64)
CANDIDATES = 30_000


def boxes(count: int, objects: int) -> tuple[Any, Any, Any]:
    """`count` boxes on a number of objects of one class, as close together as a detector's."""
    random = np.random.default_rng(count)
    which = np.arange(count) % objects
    middle = 50.0 * np.stack([which % 12, which // 12], 1) + random.normal(0, 2, (count, 2))
    side = random.uniform(40, 44, (count, 2))
    xyxy = np.concatenate([middle - side / 2, middle + side / 2], 1).astype(np.float32)
    return xyxy, random.uniform(0.3, 0.9, count).astype(np.float32), np.zeros(count, np.int64)


def warm(action: Callable[[], object]) -> float:
    def once() -> float:
        begun = time.perf_counter()
        for _ in range(500):
            action()
        return (time.perf_counter() - begun) / 500

    return round(1e6 * min(once() for _ in range(20)), 1)


def cold(action: Callable[[], object], other: NDArray[np.uint8]) -> float:
    report = []
    for _ in range(200):
        np.add(other, 1, out=other)
        begun = time.perf_counter()
        action()
        report.append(time.perf_counter() - begun)
    return round(1e6 * float(np.median(report)), 1)


def crowded(classes: int) -> NDArray[np.float32]:
    """YOLOv8's output [4 + classes, cells] in which CANDIDATES pairs of box and class reach the scoring threshold."""
    random = np.random.default_rng(classes)
    cells = 8400 if classes > 4 else CANDIDATES
    raw = np.zeros((4 + classes, cells), np.float32)
    raw[:2], raw[2:4] = random.uniform(0, 640, (2, cells)), random.uniform(20, 200, (2, cells))
    chosen = random.permutation(classes * cells)[:CANDIDATES]
    raw[4:].reshape(-1)[chosen] = random.uniform(0.001, 0.9, CANDIDATES)
    return raw


def scored(classes: int) -> dict[str, float]:
    """Milliseconds for an image with CANDIDATES."""
    raw = crowded(classes)[None]
    layout = Layout((TensorSpec("output0", raw.shape, "float32"),), (640, 640))
    decode = head("yolov8").decode(layout, float(np.float32(0.001)), SCORING.multi_label)
    candidates = decode([raw], 0)
    return {
        "decode and NMS": milliseconds(lambda: nms.nms(*decode([raw], 0), SCORING.iou, SCORING.max_det)),
        "NMS": milliseconds(lambda: nms.nms(*candidates, SCORING.iou, SCORING.max_det)),
        "OpenCV's NMS": milliseconds(lambda: by_class(*candidates)),
    }


def by_class(xyxy: Any, confidence: Any, class_id: Any) -> NDArray[np.intp]:
    kept = [np.flatnonzero(class_id == label) for label in np.unique(class_id)]
    kept = [at[opencv(xyxy[at], confidence[at])] for at in kept]
    return np.concatenate(kept)[: SCORING.max_det]


def opencv(xyxy: Any, confidence: Any) -> NDArray[np.intp]:
    sides = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1).tolist()
    return np.ravel(cv2.dnn.NMSBoxes(sides, confidence, 0.0, SCORING.iou)).astype(np.intp)


def milliseconds(action: Callable[[], object]) -> float:
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return round(1e3 * float(np.median(times)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    other = np.zeros(16 << 20, np.uint8)
    result: dict[str, Any] = {}
    for count in COUNTS:
        for kind, objects in (("in heaps of four", max(1, count // 4)), ("apart", count)):
            candidates = boxes(count, objects)
            row = result[f"{count} boxes, {kind}"] = {}
            for name, few in (("one by one", count), ("opencv", 0)):
                nms.FEW = few
                action = partial(nms.nms, *candidates, 0.7, 300)
                row[name] = {"warm": warm(action), "cold": cold(action, other)}
    many = {f"{classes} classes": scored(classes) for classes in (1, 10, 80)}
    save("nms", {**machine(), "microseconds": result, "milliseconds_of_30000_candidates": many}, options.save)


if __name__ == "__main__":
    main()
