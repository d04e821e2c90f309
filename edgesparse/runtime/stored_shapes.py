"""Masks, keypoints and rotated boxes as JSON-compatible values, to compare a detector with later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.masks import Mask


def stored_shapes(detections: Detections, digits: int | None = None) -> dict[str, list[Any]]:
    """Return what detections have besides boxes, one value each; empty for a detector of boxes only.

    Masks as [height, width, run lengths]; other numbers with this many decimals, or all.
    """
    values: dict[str, list[Any]] = {}
    if detections.masks is not None:
        values["masks"] = [[mask.height, mask.width, mask.counts.tolist()] for mask in detections.masks]
    for name in ("keypoints", "rotated"):
        numbers = getattr(detections, name)
        if numbers is not None:
            exact = numbers.astype(np.float64)
            values[name] = (exact if digits is None else np.round(exact, digits)).tolist()
    return values


def with_shapes(detections: Detections, values: Mapping[str, list[Any]]) -> Detections:
    """Return the detections with what `stored_shapes` returned for them."""
    if not len(detections):
        return detections
    shapes: dict[str, Any] = {}
    if "masks" in values:
        shapes["masks"] = tuple(Mask(height, width, np.array(c, np.uint32)) for height, width, c in values["masks"])
    for name in ("keypoints", "rotated"):
        if name in values:
            shapes[name] = np.array(values[name], np.float32)
    return replace(detections, **shapes)
