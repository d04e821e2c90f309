"""Rotated boxes: x and y of the center, width, height in pixels and angle in radians, clockwise in the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
"""Boxes that are compared with all more confident ones at once."""
Floats = NDArray[np.float64]


def corners_of(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """The corners [n, 4, 2] of rotated boxes [n, 5], around each box."""
    angle = boxes[:, 4].astype(np.float64)
    across = np.stack([np.cos(angle), np.sin(angle)], 1) * (boxes[:, 2:3] / 2)
    down = np.stack([-np.sin(angle), np.cos(angle)], 1) * (boxes[:, 3:4] / 2)
    corners = np.stack([across + down, across - down, -across - down, -across + down], 1) + boxes[:, None, :2]
    return corners.astype(np.float32)


def canonical(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same boxes with angles from 0 to a quarter turn; width and height are swapped where needed."""
    turns = np.floor(boxes[:, 4].astype(np.float64) / (np.pi / 2))
    swapped = turns % 2 == 1
    sides = np.where(swapped[:, None], boxes[:, 3:1:-1], boxes[:, 2:4])
    angle = boxes[:, 4] - turns * (np.pi / 2)
    return np.column_stack([boxes[:, :2], sides, angle]).astype(np.float32)


def suppress(
    boxes: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.int64],
    iou: float,
    max_det: int,
    agnostic: bool = False,
) -> NDArray[np.intp]:
    """Indices of the rotated boxes [n, 5] to keep, most confident first, at most `max_det`.

    A box is suppressed when a more confident one of its class (of any class if `agnostic`) overlaps it by more than
    `iou`, whether or not that one is kept: Fast NMS (Bolya et al., YOLACT, 2019), as Ultralytics does for such boxes.
    Overlap is the probabilistic IoU of `gaussian_overlap`.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, labels = boxes[order].astype(np.float64), class_id[order]
    kept: list[NDArray[np.intp]] = []
    for start in range(0, len(order), BLOCK):
        end = min(start + BLOCK, len(order))
        overlap = gaussian_overlap(ranked[:end], ranked[start:end])
        earlier = np.arange(end)[:, None] < np.arange(start, end)
        if not agnostic:
            earlier &= labels[:end, None] == labels[start:end]
        kept.append(start + np.flatnonzero(~((overlap > iou) & earlier).any(axis=0)))
        if sum(map(len, kept)) >= max_det:
            break
    return order[np.concatenate(kept)[:max_det]] if kept else order


def gaussian_overlap(first: Floats, second: Floats) -> Floats:
    """Probabilistic IoU [n, m] of rotated boxes [n, 5] and [m, 5]: 1 - the Hellinger distance of the normal
    distributions with the boxes' means and covariances (Llerena et al., Gaussian Bounding Boxes and Probabilistic
    Intersection-over-Union, arXiv 2106.06072)."""
    a, b, c = (left[:, None] + right for left, right in zip(covariance(first), covariance(second), strict=True))
    x, y = (first[:, None, i] - second[:, i] for i in (0, 1))
    determinant = np.maximum(a * b - c * c, 1e-12)
    distance = (a * y * y + b * x * x - 2 * c * x * y) / (4 * determinant)
    own = [np.maximum(sides[:, 2] * sides[:, 3] / 12, 1e-12) for sides in (first, second)]
    distance += 0.5 * np.log(determinant / (4 * own[0][:, None] * own[1]))
    overlap: Floats = 1 - np.sqrt(np.clip(1 - np.exp(-distance), 0, 1))
    return overlap


def covariance(boxes: Floats) -> tuple[Floats, Floats, Floats]:
    """Variances in x and y and the covariance of uniform distributions over rotated boxes."""
    width, height = boxes[:, 2] ** 2 / 12, boxes[:, 3] ** 2 / 12
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    return width * cos**2 + height * sin**2, width * sin**2 + height * cos**2, (width - height) * cos * sin


def overlap(first: NDArray[np.floating], second: NDArray[np.floating]) -> Floats:
    """Intersection over union [n, m] of rotated boxes [n, 5] and [m, 5]."""
    shared = np.zeros((len(first), len(second)))
    if not shared.size:
        return shared
    corners = [corners_of(boxes) for boxes in (first, second)]
    low, high = ([each.min(1) for each in corners], [each.max(1) for each in corners])
    near = ((low[0][:, None] < high[1]) & (low[1] < high[0][:, None])).all(axis=2)
    for row, column in zip(*np.nonzero(near), strict=True):
        middle = second[column, :2]
        shared[row, column] = _area(_clipped(*((corners[i][j] - middle).tolist() for i, j in ((0, row), (1, column)))))
    areas = [np.asarray(boxes, np.float64)[:, 2:4].prod(axis=1) for boxes in (first, second)]
    shared = np.minimum(shared, np.minimum(areas[0][:, None], areas[1]))  # corners are rounded to float32
    union = areas[0][:, None] + areas[1] - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def overlap_in(
    first: NDArray[np.floating], second: NDArray[np.floating], seen: tuple[float, float, float, float]
) -> float:
    """Intersection over union of two rotated boxes [5], clipped to the upright rectangle `seen` (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = seen
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    window = (np.array([[x2, y2], [x2, y1], [x1, y1], [x1, y2]]) - middle).tolist()
    a, b = (_clipped((corners_of(box[None])[0] - middle).tolist(), window) for box in (first, second))
    if len(a) < 3 or len(b) < 3:
        return 0.0
    shared = _area(_clipped(a, b))
    return shared / max(_area(a) + _area(b) - shared, 1e-12)


def _clipped(polygon: list[list[float]], other: list[list[float]]) -> list[list[float]]:
    """The intersection of two convex polygons, corners in the order of `corners_of`, by Sutherland and Hodgman's
    clipping (Reentrant Polygon Clipping, 1974). OpenCV's functions give wrong areas for boxes that nearly coincide."""
    points = polygon
    for (ax, ay), (bx, by) in zip(other, other[1:] + other[:1], strict=True):
        sides = [(by - ay) * (x - ax) - (bx - ax) * (y - ay) for x, y in points]  # positive inside
        clipped: list[list[float]] = []
        for i, (x, y) in enumerate(points):
            before, here, (px, py) = sides[i - 1], sides[i], points[i - 1]
            if (before < 0 < here) or (here < 0 < before):
                share = before / (before - here)
                clipped.append([px + share * (x - px), py + share * (y - py)])
            if here >= 0:
                clipped.append([x, y])
        points = clipped
    return points


def _area(points: list[list[float]]) -> float:
    return abs(sum(points[i - 1][0] * y - x * points[i - 1][1] for i, (x, y) in enumerate(points))) / 2
