"""YuNet, OpenCV's face detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import CENTERED, SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, joined, labeled, power
from edgesparse.runtime.heads.grid import grid, priors

STRIDES = (8, 16, 32)


class _Level(NamedTuple):
    scores: tuple[int, int]
    """Indices of two outputs [B, n, 1], from whose product the confidence is computed."""
    boxes: int
    cells: NDArray[np.float32]
    stride: int


class YuNet(Head):
    """One prediction per cell: xy = (cell + xy) * stride, wh = exp(wh) * stride. Its five keypoints are not read."""

    outputs = "twelve outputs, cls and obj [B, n, 1], bbox [B, n, 4] and kps [B, n, 10] at strides 8, 16 and 32"
    export = "face_detection_yunet_2023mar.onnx of https://github.com/opencv/opencv_zoo, as it is"
    source = "Wu et al., YuNet, and https://github.com/opencv/opencv, modules/objdetect/src/face_detect.cpp"
    convention = CENTERED.model_copy(update={"letterbox": "top-left", "pad": 0, "colour": "bgr", "scale": 1.0})

    def _levels(self, layout: Layout) -> list[_Level]:
        """Raises LookupError if there are not four outputs per stride."""
        if len(layout.outputs) != 4 * len(STRIDES):
            raise LookupError("needed four outputs per stride")
        levels = []
        for stride in STRIDES:
            corner, _ = grid(layout.size, (stride,))
            group = {i: shape[-1] for i, shape in enumerate(layout.shapes) if shape[1:-1] == (len(corner),)}
            if sorted(group.values()) != [1, 1, 4, 10]:
                raise LookupError(f"needed columns 1, 1, 4 and 10 in {len(corner)} rows")
            first, second = (i for i, columns in group.items() if columns == 1)
            boxes = next(i for i, columns in group.items() if columns == 4)
            levels.append(_Level((first, second), boxes, corner, stride))
        return levels

    def fits(self, layout: Layout) -> bool:
        return bool(self._levels(layout))

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        try:
            levels = self._levels(layout)
        except LookupError:
            return None
        scores = [] if sample is None else [sample[i] for level in levels for i in level.scores]
        if any(raw.min() < -0.01 or raw.max() > 1.01 for raw in scores):
            return None
        return Evidence(SHAPES, "two scores, a box and five points in each cell of the strides 8, 16 and 32")

    def classes(self, layout: Layout) -> int:
        return 1

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        levels = self._levels(layout)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            results = []
            for level in levels:
                first, second = (power(outputs[i][image], 0.5) for i in level.scores)
                scores = first * second
                keep = at_least(np.fmin(scores, second)[:, 0], conf)  # the second alone may be too low, as on the GPU
                row = outputs[level.boxes][image][keep].astype(np.float32)
                center, half = level.cells[keep] + row[:, :2], np.exp(row[:, 2:]) * 0.5
                xyxy = np.concatenate([center - half, center + half], 1) * np.float32(level.stride)
                results.append(labeled(xyxy, scores[keep], conf, multi_label))
            return joined(results)

        return decode

    def strided(self, layout: Layout) -> Strided:
        levels = self._levels(layout)
        planes = tuple(
            Planes(len(level.cells), Plane(level.boxes, 4, 1), *(Plane(i, 1, 1) for i in level.scores))
            for level in levels
        )
        table = np.concatenate([priors(level.cells * level.stride, level.stride, level.stride) for level in levels])
        return Strided(1, planes, "exp", powers=(0.5, 0.5), priors=table)
