"""Shared by the parts of benchmarks/gpu_path.py: engines with their detectors' settings, and frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detectors import PARTS
from benchmarks.gpu_nets import CLASSES, SIZE
from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.demo.scene import Scene
from edgesparse.runtime.detector import Detector

HD = (1080, 1920, 3)


@dataclass(frozen=True)
class Net:
    """An engine with the settings that its detector needs."""

    name: str
    path: Path
    spec: DetectorSpec
    conf: float


def net(name: str, work: Path, batch: int = 1) -> Net:
    """`parts`, the default detector, or one of gpu_nets, with a usual confidence; see `confident`."""
    path = work / f"{name}-{batch}.engine"
    if name == "parts":
        return Net(name, path, PARTS, 0.4)
    spec = DetectorSpec(head="yolov8", classes=tuple(map(str, range(CLASSES))), input=InputSpec(size=SIZE))
    return Net(name, path, spec, 0.25)


SHOTS, BOXES = 4, 50


@lru_cache(1)
def _shots() -> tuple[NDArray[np.uint8], ...]:
    scene = Scene(0, height=HD[0], width=HD[1])
    return tuple(scene.render()[0].copy() for _ in range(SHOTS))


def image(seed: int = 0) -> NDArray[np.uint8]:
    """One of SHOTS 1920x1080 frames of the demo scene; the default detector finds about 13 parts in it."""
    return _shots()[seed % SHOTS]


@contextmanager
def opened(of: Net, conf: float | None = None) -> Iterator[Detector]:
    with Detector(backend("tensorrt").load(of.path), of.spec, Run(conf=of.conf if conf is None else conf)) as detector:
        yield detector


def confident(of: Net) -> Net:
    """With the confidence threshold at which about BOXES boxes are detected in an image."""
    with opened(of, 1e-4) as detector:
        scores = [detector(image(seed)).confidence for seed in range(SHOTS)]
    # More confident boxes suppress weaker ones, so a higher threshold leaves these without the weakest.
    best = np.sort(np.concatenate(scores))[::-1]
    return replace(of, conf=float(best[min(BOXES * SHOTS, len(best)) - 1]))
