"""YOLOX, exported with or without its decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import CENTERED, POSSIBLE, VALUES, Evidence, Layout, Sample
from edgesparse.runtime.heads.candidates import NO_CANDIDATES, at_least, labeled
from edgesparse.runtime.heads.deepstream_yolo import is_corners_and_class
from edgesparse.runtime.heads.grid import grid, is_decoded, priors, strides_for, strides_of
from edgesparse.runtime.heads.yolov5 import FIRST_CLASS, DecodedRows, is_rows

_EXPORT = "python tools/export_onnx.py -n yolox-s -c best.pth --output-name yolox_s.onnx --opset 17"


def _are_scores(raw: NDArray[Any]) -> bool:
    """Whether objectness and classes of rows [n, 5 + C] are 0..1, and the last is a score rather than a class id."""
    scores = raw[:, 4:]
    return bool(scores.min() >= 0 and scores.max() <= 1) and not (raw.shape[1] == 6 and is_corners_and_class(raw))


class _OnePerCell(DecodedRows):
    """What both exports of YOLOX share: one row per cell of the grid, and the input format."""

    source = "Ge et al., YOLOX: Exceeding YOLO Series in 2021, and https://github.com/Megvii-BaseDetection/YOLOX"
    convention = CENTERED.model_copy(update={"letterbox": "top-left", "colour": "bgr", "scale": 1.0})

    def fits(self, layout: Layout) -> bool:
        return layout.table is not None and strides_of(layout.table[0], layout.size) is not None


class Yolox(_OnePerCell):
    """YOLOX without `--decode_in_inference`: xy = (xy + cell) * stride, wh = exp(wh) * stride."""

    outputs = "one output [B, N, 5 + C]: offsets on the grid, objectness, class scores after the sigmoid"
    export = _EXPORT

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not is_rows(layout):
            return None
        if sample is None:
            return Evidence(POSSIBLE, "one row per cell of the grid")
        raw = sample[0][0]
        if is_decoded(raw, layout.size) or not _are_scores(raw):
            return None
        return Evidence(VALUES, "one row per cell, with centers near 0: offsets on the grid")

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        corner, stride = grid(layout.size, strides_for(layout.outputs[0].shape[1], layout.size))
        factor = stride * (1, 1, 0.5, 0.5)
        cell = np.concatenate([factor, corner * stride, 0 * corner], 1, dtype=np.float32)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            rows = outputs[0][image]
            keep = at_least(rows[:, 4], conf)
            if not len(keep):  # as in most frames of most cameras
                return NO_CANDIDATES
            rows, origin = rows.take(keep, 0), cell.take(keep, 0)
            boxes = rows[:, :4].astype(np.float32, copy=False)
            center, half = boxes[:, :2], boxes[:, 2:]
            np.exp(half, out=half)
            boxes *= origin[:, :4]
            boxes += origin[:, 4:]
            first = center - half
            half += center
            center[:] = first
            return labeled(boxes, rows[:, FIRST_CLASS:] * rows[:, 4:FIRST_CLASS], conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        _, cells, row = layout.outputs[0].shape
        planes = Planes(cells, *(Plane(0, row, 1, first) for first in (0, FIRST_CLASS, 4)))
        corner, stride = grid(layout.size, strides_for(cells, layout.size))
        return Strided(self.classes(layout), (planes,), "exp", priors=priors(corner * stride, stride, stride))


class YoloxDecoded(_OnePerCell):
    """YOLOX exported with `--decode_in_inference`."""

    outputs = "one output [B, N, 5 + C]: center and size in pixels, objectness, class scores after the sigmoid"
    export = f"{_EXPORT} --decode_in_inference"

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not is_rows(layout):
            return None
        if sample is None:
            return Evidence(POSSIBLE, "one row per cell of the grid")
        raw = sample[0][0]
        if not is_decoded(raw, layout.size) or not _are_scores(raw) or (raw[:, 4] == 1).all():
            return None
        return Evidence(VALUES, "one row per cell, with centers at their cells in pixels and an objectness")
