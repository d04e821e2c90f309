"""RetinaFace: offsets from priors of faces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import CENTERED, SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled
from edgesparse.runtime.heads.grid import grid
from edgesparse.runtime.heads.grid import priors as prior_table

PRIORS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
"""(stride, sides of the priors in pixels)."""
CENTER_VARIANCE, SIDE_VARIANCE = 0.1, 0.2


def priors(size: tuple[int, int]) -> NDArray[np.float32]:
    """Center x, y and side in pixels, [N, 3], cell by cell."""
    parts = []
    for stride, sides in PRIORS:
        center = (grid(size, (stride,))[0] + 0.5) * stride
        parts.append(np.concatenate([np.repeat(center, len(sides), 0), np.tile(sides, len(center))[:, None]], 1))
    return np.concatenate(parts).astype(np.float32)


class RetinaFace(Head):
    """One class besides the background. Its five keypoints are not read."""

    outputs = "three outputs, boxes [B, N, 4], scores [B, N, 2] (background, face) after the softmax, points [B, N, 10]"
    export = "python convert_to_onnx.py -m mobilenet0.25_Final.pth --network mobile0.25"
    source = "Deng et al., RetinaFace, and https://github.com/biubug6/Pytorch_Retinaface, utils/box_utils.py (decode)"
    convention = CENTERED.model_copy(
        update={"letterbox": "top-left", "pad": 0, "colour": "bgr", "scale": 1.0, "mean": (104.0, 117.0, 123.0)}
    )

    def fits(self, layout: Layout) -> bool:
        count = len(priors(layout.size))
        return sorted(shape[1:] for shape in layout.shapes) == [(count, 2), (count, 4), (count, 10)]

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.fits(layout):
            return None
        if sample is not None and not np.allclose(sample[layout.index(last=2)].sum(axis=-1), 1, atol=0.01):
            return None
        return Evidence(SHAPES, f"boxes, two scores and five points for each of its {len(priors(layout.size))} priors")

    def classes(self, layout: Layout) -> int:
        return 1

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        boxes, scores, prior = layout.index(last=4), layout.index(last=2), priors(layout.size)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            face = outputs[scores][image][:, 1:]
            keep = at_least(face[:, 0], conf)
            offset, (xy, length) = outputs[boxes][image][keep].astype(np.float32), np.split(prior[keep], [2], 1)
            center = xy + offset[:, :2] * np.float32(CENTER_VARIANCE) * length
            half = length * np.exp(offset[:, 2:] * np.float32(SIDE_VARIANCE)) * np.float32(0.5)
            return labeled(np.concatenate([center - half, center + half], 1), face[keep], conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        center, length = np.split(priors(layout.size), [2], 1)
        scores = Plane(layout.index(last=2), 2, 1, first=1)
        planes = Planes(len(center), Plane(layout.index(last=4), 4, 1), scores)
        table = prior_table(center, CENTER_VARIANCE * length, length)
        return Strided(1, (planes,), "exp", exponent=(SIDE_VARIANCE, math.inf), priors=table)
