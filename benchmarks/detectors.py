"""Detectors shared by several benchmarks, and their input images."""

from __future__ import annotations

from pathlib import Path

from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.demo.scene import CLASSES
from edgesparse.model.activations import Batches
from edgesparse.stream.sources.open import image_batches

YOLOX = DetectorSpec(
    head="yolox",
    classes=coco_names(),
    input=InputSpec(size=(416, 416), letterbox="top-left", colour="bgr", scale=1.0),
)
"""YOLOX-nano."""
PARTS = DetectorSpec(head="yolov8", classes=CLASSES, input=InputSpec(size=(320, 320)))
"""The default detector, dense or 2:4."""


def images(folder: Path, count: int, spec: DetectorSpec = YOLOX) -> Batches:
    """The first `count` images of `folder`, preprocessed for the network."""
    return image_batches(str(folder), spec.input, count)
