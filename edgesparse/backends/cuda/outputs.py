"""The structures of compact.cuh as NumPy dtypes, their values, and the kernel that reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.cuda.layouts import Row, struct
from edgesparse.backends.frames import LEVELS, BoxKind, FramePlan, Plane, ScoreKind, Strided

_PLANE = struct("u8 at, i4 image, i4 row, i4 step, i4 gap")
_VALUES = ("boxes", "scores", "objectness", "details")
_LEVEL = np.dtype([*((name, _PLANE) for name in _VALUES), ("candidates", np.int32), ("gap", np.int32)])
OUTPUTS = np.dtype(
    [
        ("level", _LEVEL, LEVELS),
        *struct(
            "u8 thresholds, u8 priors, u8 views, i4 levels, i4 candidates, i4 classes, i4 kind, i4 scoring, i4 bins, "
            "i4 multi_label, i4 capacity, f4 lowest, f4 least_logit, f4 object_power, f4 power, f4 log_scale, "
            "f4 log_limit, f4 iou, i4 max_det, i4 agnostic, i4 nms_limit, i4 details, i4 gap"
        ).descr,
    ]
)
RECORD = struct("4f4 box, f4 score, i4 key")
COUNT = struct("u4 found, u4 dropped, u4 done")
SUMMARY = struct("i4 found, i4 kept, i4 dropped")
MOST = 256
"""Up to this many boxes per image the GPU runs NMS: the number of threads in a block (suppress.cuh)."""
KEPT = np.dtype([("box", np.float32, (MOST, 4)), ("score", np.float32, MOST), ("label", np.int64, MOST)])
KINDS = get_args(BoxKind)
SCORES = get_args(ScoreKind)
_PLAIN = KINDS[: KINDS.index("exp") + 1]
_SURE = 16.0
"""A logit whose sigmoid is 1 in float32, nearly."""
_MARGIN = 0.01
"""How far below a threshold a logit may be and still be compared as a confidence: more than rounding."""


def outputs_of(plan: FramePlan, specs: Sequence[TensorSpec], addresses: Sequence[int]) -> Row:
    """The outputs' structure, except `capacity`, `nms_limit`, `thresholds`, `priors` and `views`.

    `addresses`: of the outputs on the GPU, in the model's order.
    """
    row, strided = np.zeros(1, OUTPUTS), plan.strided
    assert strided is not None
    for level, planes in zip(row["level"][0], strided.planes, strict=False):
        for name in _VALUES:
            if (plane := getattr(planes, name)) is not None:
                level[name] = _plane(plane, specs[plane.output], addresses[plane.output])
        level["candidates"] = planes.candidates
    row["levels"] = len(strided.planes)
    for name in ("candidates", "classes", "details"):
        row[name] = getattr(strided, name)
    row["bins"] = strided.bins or 1
    row["kind"], row["scoring"] = KINDS.index(strided.kind), SCORES.index(strided.scores)
    row["object_power"], row["power"] = strided.powers[0] / strided.powers[1], strided.powers[1]
    row["log_scale"], row["log_limit"] = strided.exponent
    row["lowest"] = lowest = float(thresholds_of(plan).min())
    row["least_logit"] = _logit(lowest) - _MARGIN
    row["multi_label"], row["iou"], row["max_det"] = plan.multi_label, plan.iou, plan.max_det
    row["agnostic"] = plan.agnostic
    return row


def thresholds_of(plan: FramePlan) -> NDArray[np.float32]:
    """What objectness times class must reach, per class, before the kernel raises it to its power."""
    assert plan.strided is not None
    return (plan.thresholds.astype(np.float64) ** (1 / plan.strided.powers[1])).astype(np.float32)


def kernel_of(strided: Strided, specs: Sequence[TensorSpec]) -> str | None:
    """The name of the kernel that reads these outputs; None if their types differ, or no kernel reads them."""
    planes = [getattr(part, name) for part in strided.planes for name in _VALUES]
    dtypes = {specs[plane.output].dtype for plane in planes if plane is not None}
    if len(dtypes) > 1 or not dtypes <= {"float32", "float16"}:
        return None
    plain = strided.kind in _PLAIN and strided.scores == "confidences" and strided.powers == (1, 1)
    plain &= strided.exponent == (1, math.inf)
    return f"{'compact' if plain else 'maps'}_{dtypes.pop()}"


def _plane(plane: Plane, spec: TensorSpec, address: int) -> tuple[int, ...]:
    itemsize = np.dtype(spec.dtype).itemsize
    return address + plane.first * itemsize, int(np.prod(spec.shape[1:])), plane.row, plane.step, 0


def _logit(confidence: float) -> float:
    if confidence <= 0 or confidence >= 1:
        return -np.inf if confidence <= 0 else _SURE
    return math.log(confidence / (1 - confidence))
