"""NanoDet and NanoDet-Plus: class scores and distributions of distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import SHAPES, STRETCHED, VALUES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, joined, labeled
from edgesparse.runtime.heads.grid import cells, grid, priors

BINS = 8
"""Distances 0 to 7 in strides."""
SIDES = 4 * BINS


class _Part(NamedTuple):
    scores: int
    """Index of the output with scores in its first columns: [B, n, C] or [B, n, C + SIDES]."""
    distances: int
    """Index of the output with SIDES bins in its last columns."""
    centers: NDArray[np.float32]
    """[n, 2] in pixels."""
    stride: NDArray[np.float32]
    """[n, 1]"""


class DistanceBins(Head):
    """Each side of a box is the expected value of a distribution over distances from a point of the cell."""

    strides: ClassVar[tuple[int, ...]]
    point: ClassVar[float] = 0.5
    """Where in its cell a prediction is: 0.5 in the center, 0 in the corner."""
    one_output: ClassVar[bool] = False
    """Whether its exporter writes scores and distances of every stride side by side."""
    two_per_stride: ClassVar[bool] = False
    """Whether its exporter writes scores and distances of each stride separately."""

    def _parts(self, layout: Layout) -> list[_Part]:
        """Raises LookupError if the outputs are neither two per stride nor one with every row."""
        if layout.table is not None and self.one_output:
            if layout.table[0] != cells(layout.size, self.strides) or layout.table[1] <= SIDES:
                raise LookupError("needed a row per cell")
            return [_Part(0, 0, *self._points(layout, self.strides))]
        count = 2 * len(self.strides) if self.two_per_stride else 0
        if len(layout.outputs) != count or any(len(shape) != 3 for shape in layout.shapes):
            raise LookupError("needed two outputs per stride")
        parts = []
        for stride in self.strides:
            points = self._points(layout, (stride,))
            pair = [i for i, shape in enumerate(layout.shapes) if shape[1] == len(points[0])]
            if len(pair) != 2:
                raise LookupError(f"needed two outputs with {len(points[0])} rows")
            bins = [i for i in pair if layout.shapes[i][2] == SIDES]
            named = [i for i in bins if "dis" in layout.outputs[i].name or "reg" in layout.outputs[i].name]
            distances = (named or bins)[0]
            parts.append(_Part(sum(pair) - distances, distances, *points))
        return parts

    def _points(self, layout: Layout, strides: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        corner, stride = grid(layout.size, strides)
        return (corner + np.float32(self.point)) * stride, stride

    def fits(self, layout: Layout) -> bool:
        return len({layout.shapes[part.scores][2] for part in self._parts(layout)}) == 1

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout) or (layout.table is not None and sample is None):
            return None
        parts, classes = self._parts(layout), self.classes(layout)
        for part in parts if sample is not None else ():
            scores, bins = sample[part.scores][..., :classes], sample[part.distances][..., -SIDES:]  # type: ignore[index]
            if scores.min() < 0 or scores.max() > 1 or (bins.min() >= 0 and bins.max() <= 1):
                return None
        where = ", ".join(map(str, self.strides))
        strength = SHAPES if layout.table is None else VALUES
        return Evidence(strength, f"scores and {SIDES} distance bins for each cell of the strides {where}")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[self._parts(layout)[0].scores][2] - (SIDES if layout.table is not None else 0)

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        parts, classes = self._parts(layout), self.classes(layout)
        bins = np.arange(BINS, dtype=np.float32)

        def boxes(part: _Part, raw: NDArray[Any], keep: NDArray[np.intp]) -> NDArray[np.float32]:
            logits = raw[keep, -SIDES:].astype(np.float32).reshape(-1, 4, BINS)
            weights = np.exp(logits - logits.max(axis=2, keepdims=True))
            distance = (weights @ bins) / weights.sum(axis=2) * part.stride[keep]
            center = part.centers[keep]
            return np.concatenate([center - distance[:, :2], center + distance[:, 2:]], 1)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            results = []
            for part in parts:
                scores = outputs[part.scores][image][:, :classes]
                keep = at_least(scores.max(axis=1), conf)
                xyxy = boxes(part, outputs[part.distances][image], keep)
                results.append(labeled(xyxy, scores[keep], conf, multi_label))
            return joined(results)

        return decode

    def strided(self, layout: Layout) -> Strided:
        parts = self._parts(layout)
        planes = []
        for part in parts:
            (count, row), (_, wide) = layout.shapes[part.scores][1:], layout.shapes[part.distances][1:]
            planes.append(Planes(count, Plane(part.distances, wide, 1, wide - SIDES), Plane(part.scores, row, 1)))
        table = np.concatenate([priors(part.centers, part.stride, part.stride) for part in parts])
        return Strided(self.classes(layout), tuple(planes), "bins", bins=BINS, priors=table)


class NanoDet(DistanceBins):
    """Three strides, a prediction in the center of each cell."""

    outputs = (
        "six outputs, scores [B, n, C] after the sigmoid and distance bins [B, n, 32] at strides 8, 16 and 32, or both "
        "side by side in one output [B, N, C + 32]"
    )
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
    strides = (8, 16, 32)
    one_output = two_per_stride = True


class NanoDetPlus(DistanceBins):
    """Four strides, a prediction at the corner of each cell."""

    outputs = "one output [B, N, C + 32], scores after the sigmoid and distance bins at strides 8, 16, 32 and 64"
    export = "python tools/export_onnx.py --cfg_path nanodet-plus-m_416.yml --model_path best.ckpt"
    source = "https://github.com/RangiLyu/nanodet, nanodet/model/head/nanodet_plus_head.py"
    convention = NanoDet.convention
    strides = (8, 16, 32, 64)
    point = 0.0
    one_output = True
