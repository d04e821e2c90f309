"""NanoDet: class scores and distributions of distances, two outputs per level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import SHAPES, STRETCHED, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled
from edgesparse.runtime.heads.grid import grid

STRIDES = (8, 16, 32)
BINS = 8
"""Distances 0 to 7 in strides."""


class _Level(NamedTuple):
    scores: int
    """Index of the output [B, n, C]."""
    distances: int
    """Index of the output [B, n, 4 * BINS]."""
    centers: NDArray[np.float32]
    """[n, 2] in pixels."""
    stride: int


def _levels(layout: Layout) -> list[_Level]:
    """Raises LookupError where the outputs are not two per stride."""
    if len(layout.outputs) != 2 * len(STRIDES) or any(len(shape) != 3 for shape in layout.shapes):
        raise LookupError("needed two outputs per stride")
    levels = []
    for stride in STRIDES:
        corner, _ = grid(layout.size, (stride,))
        pair = [i for i, shape in enumerate(layout.shapes) if shape[1] == len(corner)]
        if len(pair) != 2:
            raise LookupError(f"needed two outputs with {len(corner)} rows")
        bins = [i for i in pair if layout.shapes[i][2] == 4 * BINS]
        named = [i for i in bins if "dis" in layout.outputs[i].name or "reg" in layout.outputs[i].name]
        distances = (named or bins)[0]
        levels.append(_Level(sum(pair) - distances, distances, (corner + 0.5) * np.float32(stride), stride))
    return levels


class NanoDet(Head):
    """Each side of a box is the expected value of a distribution over distances from the cell's center."""

    outputs = "six outputs, scores [B, n, C] after the sigmoid and distance bins [B, n, 32] at strides 8, 16 and 32"
    export = "python tools/export_onnx.py --cfg_path nanodet_m.yml --model_path best.ckpt"
    source = (
        "Li et al., Generalized Focal Loss (distribution of distances), and https://github.com/RangiLyu/nanodet, "
        "nanodet/model/head/gfl_head.py"
    )
    convention = STRETCHED.model_copy(
        update={
            "colour": "bgr",
            "scale": 1.0,
            "mean": (103.53, 116.28, 123.675),
            "std": (57.375, 57.12, 58.395),
        }
    )

    def fits(self, layout: Layout) -> bool:
        levels = _levels(layout)
        return len({layout.shapes[level.scores][2] for level in levels}) == 1

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        try:
            if not self.fits(layout):
                return None
            levels = _levels(layout)
        except LookupError:
            return None
        if sample is not None and any(sample[v.scores].min() < 0 or sample[v.scores].max() > 1 for v in levels):
            return None
        return Evidence(SHAPES, "scores and 32 distance bins at each of the strides 8, 16 and 32")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[_levels(layout)[0].scores][2]

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        levels = _levels(layout)
        bins = np.arange(BINS, dtype=np.float32)

        def boxes(level: _Level, raw: NDArray[Any], keep: NDArray[np.intp]) -> NDArray[np.float32]:
            logits = raw[keep].astype(np.float32).reshape(-1, 4, BINS)
            weights = np.exp(logits - logits.max(axis=2, keepdims=True))
            distance = (weights @ bins) / weights.sum(axis=2) * np.float32(level.stride)
            center = level.centers[keep]
            return np.concatenate([center - distance[:, :2], center + distance[:, 2:]], 1)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            parts = []
            for level in levels:
                scores = outputs[level.scores][image]
                keep = at_least(scores.max(axis=1), conf)
                parts.append(
                    labeled(boxes(level, outputs[level.distances][image], keep), scores[keep], conf, multi_label)
                )
            xyxy, confidence, class_id = (np.concatenate(part) for part in zip(*parts, strict=True))
            return xyxy, confidence, class_id

        return decode
