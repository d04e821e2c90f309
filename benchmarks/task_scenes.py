"""Labeled scenes for segmentation, poses and rotated boxes: shapes and figures on textured backgrounds.

What is drawn is what is labeled: masks are the pixels of an object that nothing covers, keypoints are the joints
between which a figure's limbs were drawn, rotated boxes are those that a shape was scaled into. A seed gives the same
scene every time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 180, 240
CLASSES = {"segment": ("ring", "star", "square"), "pose": ("person",), "obb": ("plate", "kite", "link")}
"""The classes of each task, which is named as Ultralytics' exports name it."""
LEAST, MOST = 2, 4
"""Objects that are drawn in a scene, as long as there is room."""
TRIES = 4
"""Places that are tried for an object."""
SHIFT = 4
"""Bits behind the binary point of the coordinates that OpenCV draws."""
COVERED = {"segment": 0.25, "pose": 0.0, "obb": 0.0}
"""The share of an object that a later one may cover."""
ARMS, LEGS = ((5, 7), (7, 9), (6, 8), (8, 10)), ((11, 13), (13, 15), (12, 14), (14, 16))
SHOULDERS, HIPS = (5, 6), (11, 12)
"""Pairs of COCO's keypoints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; the left ones first."""

Random = np.random.Generator
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass
class Scene:
    """`image` [HEIGHT, WIDTH, 3] BGR. Per object: `classes`; `boxes`, its rotated box as x and y of the center, width,
    height and angle, which is 0 unless the task is obb; `keypoints` [17, 2] of persons. `owner` [HEIGHT, WIDTH]: whose
    pixel it is, counting from 1; 0 is the background. Coordinates start at the corner of the first pixel.
    """

    image: Pixels
    owner: Pixels
    classes: list[int] = field(default_factory=list)
    boxes: list[Floats] = field(default_factory=list)
    keypoints: list[Floats] = field(default_factory=list)


class Brush:
    """Draws an object on a copy of a scene's image, and its pixels into `mask`."""

    def __init__(self, image: Pixels) -> None:
        self.image, self.mask = image.copy(), np.zeros(image.shape[:2], np.uint8)

    def fill(self, contours: list[Floats], color: Floats) -> None:
        """Fill contours [n, 2]; what two of them surround stays as it is."""
        fixed = [_fixed(contour) for contour in contours]
        cv2.fillPoly(self.image, fixed, color.tolist(), cv2.LINE_8, SHIFT)
        cv2.fillPoly(self.mask, fixed, 1, cv2.LINE_8, SHIFT)

    def limb(self, ends: Floats, width: float, color: Floats) -> None:
        """Draw a straight limb between two joints [2, 2], with round ends."""
        along = ends[1] - ends[0]
        turn = np.arctan2(along[1], along[0]) + np.linspace(0.5, 1.5, 9) * np.pi
        cap = np.stack([np.cos(turn), np.sin(turn)], 1) * width / 2
        self.fill([np.concatenate([ends[0] + cap, ends[1] - cap])], color)

    def disc(self, center: Floats, radius: float, color: Floats) -> None:
        self.fill([center + radius * _circle(24)], color)


def scene(task: str, seed: int) -> Scene:
    """A scene of LEAST to MOST objects; fewer where there is no room."""
    random = np.random.default_rng([list(CLASSES).index(task), seed])
    result = Scene(_background(random), np.zeros((HEIGHT, WIDTH), np.uint8))
    for _ in range(random.integers(LEAST, MOST + 1)):
        for _ in range(TRIES):
            brush = Brush(result.image)
            kind, box, keypoints = DRAW[task](brush, random)
            if _fits(result, brush.mask > 0, COVERED[task]):
                result.image, result.owner[brush.mask > 0] = brush.image, len(result.classes) + 1
                result.classes.append(kind)
                result.boxes.append(box)
                result.keypoints += keypoints
                break
    if task != "obb":
        result.boxes = [_around(result.owner == number) for number in range(1, len(result.classes) + 1)]
    noise = random.normal(0, random.uniform(2, 8), (HEIGHT, WIDTH, 3))
    result.image = np.clip(cv2.GaussianBlur(result.image, (3, 3), 0) + noise, 0, 255).astype(np.uint8)
    return result


def export(folder: Path, task: str, first: int, count: int) -> None:
    """Write the scenes with the seeds from `first` on to `folder`/images, and their labels to instances.json (COCO)."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    labels: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    labels["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES[task])]
    for number in range(1, count + 1):
        drawn, name = scene(task, first + number - 1), f"{number:06}.png"
        cv2.imwrite(str(folder / "images" / name), drawn.image)
        labels["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for i in range(len(drawn.classes)):
            ids = {"id": len(labels["annotations"]) + 1, "image_id": number}
            labels["annotations"].append({**ids, **_annotation(drawn, i)})
    (folder / "instances.json").write_text(json.dumps(labels))


def corners(box: Floats) -> Floats:
    """The corners [4, 2] of a rotated box [5]."""
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    return _placed(square, box)


def _annotation(drawn: Scene, i: int) -> dict[str, Any]:
    """Object `i` in COCO's format: with its mask, or for a rotated box its corners, and keypoints if it has any."""
    around, mask = corners(drawn.boxes[i]), drawn.owner == i + 1
    (left, top), (right, bottom) = around.min(0), around.max(0)
    rotated = drawn.boxes[i][4] != 0
    result = {
        "category_id": drawn.classes[i] + 1,
        "iscrowd": 0,
        "bbox": [left, top, right - left, bottom - top],
        "area": float(drawn.boxes[i][2:4].prod()) if rotated else int(mask.sum()),
        "segmentation": [around.ravel().tolist()] if rotated else _run_lengths(mask),
    }
    if drawn.keypoints:
        points = np.concatenate([drawn.keypoints[i], np.full((17, 1), 2.0)], 1)
        result |= {"keypoints": points.ravel().tolist(), "num_keypoints": 17}
    return result


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's uncompressed run lengths: down the columns, of background and object alternately."""
    pixels = mask.T.ravel()
    edges = np.flatnonzero(np.diff(pixels, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, pixels.size]).tolist()}


def _fits(drawn: Scene, mask: NDArray[np.bool_], covered: float) -> bool:
    """Whether no object would lose more than this share of the pixels that it still has."""
    lost = np.bincount(drawn.owner[mask], minlength=MOST + 1)
    return bool((lost[1:] <= covered * np.bincount(drawn.owner.ravel(), minlength=MOST + 1)[1:]).all())


def _background(random: Random) -> Pixels:
    """Blotches of two sizes between random colors, with a few lines and patches that are no objects."""
    image = np.tile(random.uniform(30, 220, 3), (HEIGHT, WIDTH, 1))
    for cells, strength in ((6, 25), (40, 12)):
        blotches = random.normal(0, strength, (cells * 3 // 4, cells, 3))
        image += cv2.resize(blotches, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    result = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(random.integers(0, 6)):
        start, end = random.uniform(0, (WIDTH, HEIGHT), (2, 2))
        cv2.line(result, _point(start), _point(end), random.uniform(0, 255, 3).tolist(), int(random.integers(1, 4)))
    for _ in range(random.integers(0, 4)):
        radius, center = random.integers(2, 8), _point(random.uniform(0, (WIDTH, HEIGHT)))
        cv2.circle(result, center, int(radius), random.uniform(0, 255, 3).tolist(), -1)
    return result


def _color(brush: Brush, random: Random) -> Floats:
    """A color that can be told from the background's mean."""
    return np.asarray((brush.image.mean((0, 1)) + random.uniform(80, 176, 3)) % 256, np.float64)


def _shape(random: Random, kind: str) -> list[Floats]:
    """The contours of a shape that fills the square from -1 to 1."""
    if kind in ("ring", "link"):
        return [_circle(48), random.uniform(0.4, 0.65) * _circle(32)]
    if kind == "star":
        radius = np.where(np.arange(10) % 2, random.uniform(0.4, 0.55), 1.0)
        return [_circle(10) * radius[:, None]]
    if kind == "kite":
        return [np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float64)]
    return [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)]


def _draw_shape(task: str, brush: Brush, random: Random) -> tuple[int, Floats, list[Floats]]:
    """Draw a shape of any class; return its class, its rotated box, and no keypoints."""
    kind = int(random.integers(len(CLASSES[task])))
    width = random.uniform(55, 105)
    height = width / (random.uniform(1, 1.3) if task == "segment" else random.uniform(1.5, 3))
    angle = random.uniform(0, np.pi)
    box = np.array([0, 0, width, height, angle])
    box[:2] = _center(random, np.abs(corners(box)).max(0))
    contours = [_placed(contour, box) for contour in _shape(random, CLASSES[task][kind])]
    color = _color(brush, random)
    brush.fill(contours, color)
    if random.random() < 0.5:  # a stripe along it, so that its color is not one
        inside, stripe = brush.mask > 0, box * (1, 1, 1, random.uniform(0.15, 0.3), 1)
        striped = Brush(brush.image)
        striped.fill([corners(stripe)], np.clip(color + random.uniform(-60, 60, 3), 0, 255))
        brush.image[inside] = striped.image[inside]
    return kind, box, []


def _draw_person(brush: Brush, random: Random) -> tuple[int, Floats, list[Floats]]:
    """Draw a person who faces the camera, so that the left side is on the right; return class, no box, and joints."""
    tall = random.uniform(90, 140)
    joints = _joints(random) * tall
    low, high = joints.min(0) - 0.1 * tall, joints.max(0) + 0.1 * tall
    joints += _center(random, (high - low) / 2) - (low + high) / 2
    skin, shirt, trousers = (_color(brush, random) for _ in range(3))
    for leg in LEGS:
        brush.limb(joints[list(leg)], 0.075 * tall, trousers)
    brush.fill([joints[[5, 6, 12, 11]]], shirt)
    for i, arm in enumerate(ARMS):
        brush.limb(joints[list(arm)], 0.06 * tall, shirt if i % 2 == 0 else skin)
    for pair in (SHOULDERS, HIPS):
        brush.limb(joints[list(pair)], 0.06 * tall, shirt)
    head = joints[3:5].mean(0)
    brush.disc(head, 0.085 * tall, skin)
    for point, size, shade in ((0, 0.014, -40), (1, 0.017, -150), (2, 0.017, -150), (3, 0.022, -30), (4, 0.022, -30)):
        brush.disc(joints[point], size * tall, np.clip(skin + shade, 0, 255))
    return 0, np.zeros(5), [joints]


def _joints(random: Random) -> Floats:
    """COCO's 17 keypoints of a person one unit tall, leaning a little, with any arms and legs."""
    points = np.zeros((17, 2))
    turned = random.uniform(-0.02, 0.02)
    points[:5] = [[turned, 0.02], [0.032 + turned, 0], [turned - 0.032, 0], [0.083, 0.005], [-0.083, 0.005]]
    points[5:7] = [[0.11, 0.16], [-0.11, 0.16]]
    points[11:13] = [[0.07, 0.43], [-0.07, 0.43]]
    for (start, end), reach in zip((*ARMS, *LEGS), [0.17, 0.16] * 2 + [0.24, 0.23] * 2, strict=True):
        side = 1 if start % 2 else -1
        low, high = (-0.3, 2.6) if start < 11 else (-0.1, 0.6)
        angle = side * random.uniform(low, high)
        points[end] = points[start] + reach * np.array([np.sin(angle), np.cos(angle)])
    lean = random.uniform(-0.35, 0.35)
    return _turned(points, lean)


DRAW: dict[str, Callable[[Brush, Random], tuple[int, Floats, list[Floats]]]] = {
    "segment": lambda brush, random: _draw_shape("segment", brush, random),
    "pose": _draw_person,
    "obb": lambda brush, random: _draw_shape("obb", brush, random),
}


def _around(mask: NDArray[np.bool_]) -> Floats:
    """The upright box of a mask's pixels, with the angle 0."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    low, high = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]]) + 1
    return np.array([*(low + high) / 2, *(high - low), 0], np.float64)


def _center(random: Random, reach: Floats) -> Floats:
    """A random center of what reaches so far to each side and stays in the image."""
    edge = np.minimum(reach, (WIDTH / 2, HEIGHT / 2))
    return random.uniform(edge, (WIDTH, HEIGHT) - edge)


def _placed(points: Floats, box: Floats) -> Floats:
    """Points of the square from -1 to 1, scaled and rotated into a box [5]."""
    return _turned(points * box[2:4] / 2, box[4]) + box[:2]


def _turned(points: Floats, angle: float) -> Floats:
    """Points rotated around the origin, clockwise in the image."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]), np.float64)


def _circle(count: int) -> Floats:
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], 1)


def _fixed(points: Floats) -> NDArray[np.int32]:
    """Fixed-point coordinates as OpenCV draws them, whose first pixel has its center, not its corner, at 0."""
    return np.asarray(np.round((points - 0.5) * 2**SHIFT), np.int32)


def _point(values: Floats) -> tuple[int, int]:
    return int(values[0]), int(values[1])
