"""Random raw outputs of families whose exporters leave the decoding out, as their heads read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from raw_maps import FAMILIES, raw_maps

Floats = NDArray[np.float32]
Outputs = dict[str, Floats]


@dataclass(frozen=True)
class Draw:
    """What outputs are drawn for: about `share` of the candidates are likely to reach a confidence of 0.5."""

    batch: int
    classes: int
    size: tuple[int, int]
    random: np.random.Generator
    share: float

    def sides(self, stride: int) -> tuple[int, int]:
        return -(-self.size[0] // stride), -(-self.size[1] // stride)

    def cells(self, *strides: int) -> int:
        return sum(int(np.prod(self.sides(stride))) for stride in strides)

    def noise(self, *shape: int, scale: float = 1.0) -> Floats:
        return self.random.normal(0, scale, (self.batch, *shape)).astype(np.float32)

    def scores(self, *shape: int) -> Floats:
        """Scores after the sigmoid; the last axis is that of the classes."""
        shape = self.batch, *shape
        likely = self.random.random((*shape[:-1], 1)) < self.share
        return np.where(likely, self.random.uniform(0.3, 1, shape), 0.01).astype(np.float32)

    def logits(self, *shape: int) -> Floats:
        scores = np.clip(self.scores(*shape), None, 0.999)
        return np.log(scores / (1 - scores))


def pairs(strides: Sequence[int], draw: Draw) -> Outputs:
    """Scores and 32 distance bins per cell, as two outputs per stride."""
    scores = {f"cls_{stride}": draw.scores(draw.cells(stride), draw.classes) for stride in strides}
    return scores | {f"reg_{stride}": draw.noise(draw.cells(stride), 32, scale=2) for stride in strides}


def nanodet_plus(draw: Draw) -> Outputs:
    rows = draw.cells(8, 16, 32, 64)
    return {"output": np.concatenate([draw.scores(rows, draw.classes), draw.noise(rows, 32, scale=2)], 2)}


def fastestdet(draw: Draw) -> Outputs:
    """A softmax in which one class stands out."""
    shape = draw.sides(16)
    best = draw.random.integers(0, draw.classes, (draw.batch, *shape, 1)) == np.arange(draw.classes)
    classes = np.exp(draw.noise(*shape, draw.classes) + 4 * best)
    parts = draw.scores(*shape, 1), draw.noise(*shape, 4), classes / classes.sum(axis=-1, keepdims=True)
    return {"758": np.ascontiguousarray(np.concatenate(parts, 3).transpose(0, 3, 1, 2), np.float32)}


def anchors(by_anchor: bool, draw: Draw) -> Outputs:
    """Three anchors per cell, in an axis of their own or among the channels."""
    outputs = {}
    for stride in (8, 16, 32):
        shape = 3, *draw.sides(stride)
        raw = np.concatenate([draw.noise(*shape, 4), draw.logits(*shape, 1 + draw.classes) + 1], -1)
        stacked = raw.transpose(0, 1, 4, 2, 3).reshape(draw.batch, -1, *shape[1:])
        outputs[f"map{stride}"] = np.ascontiguousarray(raw if by_anchor else stacked)
    return outputs


def retinanet(draw: Draw) -> Outputs:
    """Nine anchors per cell; class 0 is the background."""
    rows = 9 * draw.cells(8, 16, 32, 64, 128)
    return {"cls_logits": draw.logits(rows, 1 + draw.classes), "bbox_regression": draw.noise(rows, 4, scale=2)}


def fcos(draw: Draw) -> Outputs:
    rows = draw.cells(8, 16, 32, 64, 128)
    logits, centerness = draw.logits(rows, 1 + draw.classes), draw.noise(rows, 1) + 3
    return {"cls_logits": logits, "bbox_regression": abs(draw.noise(rows, 4)), "bbox_ctrness": centerness}


def retinaface(draw: Draw) -> Outputs:
    rows, faces = 2 * draw.cells(8, 16, 32), draw.scores(2 * draw.cells(8, 16, 32), 1)
    return {
        "boxes": draw.noise(rows, 4),
        "scores": np.concatenate([1 - faces, faces], 2),
        "points": draw.noise(rows, 10),
    }


def yunet(draw: Draw) -> Outputs:
    outputs = Outputs()
    for stride in (8, 16, 32):
        rows = draw.cells(stride)
        score = draw.scores(rows, 1)
        outputs |= {f"cls_{stride}": score, f"obj_{stride}": np.sqrt(score)}
        outputs |= {f"bbox_{stride}": draw.noise(rows, 4), f"kps_{stride}": draw.noise(rows, 10)}
    return outputs


def freeyolo(draw: Draw) -> Outputs:
    rows = draw.cells(8, 16, 32)
    return {"output": np.concatenate([draw.noise(rows, 4), draw.scores(rows, 1 + draw.classes)], 2)[0]}


ONE_CLASS, ONE_IMAGE = ("retinaface", "yunet"), ("freeyolo",)
"""Families that detect faces only, and those whose outputs have no batch."""
EXPORTED: dict[str, Callable[[Draw], Outputs]] = {
    "nanodet": partial(pairs, (8, 16, 32)),
    "nanodet-plus": nanodet_plus,
    "picodet": partial(pairs, (8, 16, 32, 64)),
    "fastestdet": fastestdet,
    "yolov3-maps": partial(anchors, False),
    "yolov4-maps": partial(anchors, True),
    "yolov5-maps": partial(anchors, False),
    "yolov7-maps": partial(anchors, True),
    "retinanet": retinanet,
    "fcos": fcos,
    "retinaface": retinaface,
    "yunet": yunet,
    "freeyolo": freeyolo,
}
RAW = (*FAMILIES, *EXPORTED)
"""Families whose engine ends in raw outputs: after `slim`, or as exported."""


def raw_outputs(
    head: str, batch: int, classes: int, size: tuple[int, int], random: np.random.Generator, share: float
) -> Outputs:
    if head in FAMILIES:
        return raw_maps(head, batch, classes, size, random, share)
    return EXPORTED[head](Draw(batch, classes, size, random, share))
