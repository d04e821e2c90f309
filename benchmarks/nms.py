"""From how many boxes on OpenCV's NMS is quicker than comparing them one by one: what runtime/nms.py's FEW says.

    python benchmarks/nms.py [--save]

Microseconds, warm and with cold caches, as they are when an engine has just given its boxes. Where boxes come in heaps
few of them stay; where none overlap all are compared with all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.runtime import nms

COUNTS = (2, 4, 8, 12, 16, 24, 32, 64)


def boxes(count: int, objects: int) -> tuple[Any, Any, Any]:
    """So many boxes on so many objects of one class, as near as a detector puts them."""
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
    save("nms", {**machine(), "microseconds": result}, options.save)


if __name__ == "__main__":
    main()
