"""The real detector that several benchmarks look at: YOLOX-nano, as it takes pictures."""

from __future__ import annotations

from pathlib import Path

from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.graph.activations import Batches
from edgesparse.stream import pictures as stored

SPEC = DetectorSpec(
    head="yolox",
    classes=coco_names(),
    input=InputSpec(size=(416, 416), letterbox="top-left", colour="bgr", scale=1.0),
)


def pictures(folder: Path, count: int) -> Batches:
    """The first `count` pictures of `folder`, as the network takes them."""
    return stored.Batches(str(folder), SPEC.input, count)
