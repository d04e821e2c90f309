"""Draws boxes and labels, zones and lines on images, scaled to the image size."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.counts import DIRECTIONS, Counts, Polygon
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.sinks.shapes import Shapes

Color = tuple[int, int, int]
"""Blue, green, red, 0..255."""

ZONE: Color = (0, 215, 255)
LINE: Color = (80, 230, 60)
_GOLDEN = 0.618034


def _color(number: int) -> Color:
    """Return a color: hues a golden section apart, in three shades, so that consecutive numbers look very different."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + number * _GOLDEN) % 1, 0.85 - 0.15 * (number % 3), 0.95)
    return round(255 * blue), round(255 * green), round(255 * red)


PALETTE: tuple[Color, ...] = tuple(_color(number) for number in range(24))

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(
    image: Image,
    detections: Detections,
    names: Sequence[str],
    *,
    palette: Sequence[Color] = PALETTE,
    shapes: Shapes | None = None,
    scale: float = 1.0,
) -> None:
    """Draw every detection into `image`, BGR uint8 [H, W, 3], in place; the most confident is on top.

    `shapes`: what draws masks, keypoints and rotated boxes, to be passed again with the next frame. `scale`: the
    image's size as a share of that of the detections' frame.
    """
    shapes = shapes or Shapes()
    height, width = image.shape[:2]
    thickness = max(1, round(min(height, width) / 240))
    corners = np.rint(np.clip(detections.xyxy * np.float64(scale), 0, np.array((width, height) * 2) - 1.0))
    places, colors = corners.astype(np.intp).tolist(), [palette[i % len(palette)] for i in detections.class_id.tolist()]
    words = _words(detections, names)
    for number in reversed(range(len(detections))):
        (left, top, right, bottom), color = places[number], colors[number]
        if shapes.draw(image, detections, number, color, thickness, scale):
            # Horizontal and vertical lines need no antialiasing, which takes four times as long.
            cv2.rectangle(image, (left, top), (right, bottom), color, thickness)
        _label(image, words[number], left, top, color, thickness)


def _words(detections: Detections, names: Sequence[str]) -> list[str]:
    """Return the label of each detection: class, number of the object, confidence, and seconds in its zone."""
    numbers = repeat(-1) if detections.track_id is None else detections.track_id.tolist()
    stays = detections.dwell or repeat(())
    rows = zip(detections.class_id.tolist(), numbers, detections.confidence.tolist(), stays, strict=False)
    return [
        f"{class_name(names, class_id)}{f' #{track}' if track >= 0 else ''} {confidence:.2f}"
        f"{f' {max(dwell):.0f} s' if dwell else ''}"
        for class_id, track, confidence, dwell in rows
    ]


def draw_counts(image: Image, counts: Counts) -> None:
    """Draw zones and lines with their names and what was counted there into `image`, BGR uint8 [H, W, 3], in place.

    The arrow at a line points in the direction that counts as `in`.
    """
    thickness = max(1, round(min(image.shape[:2]) / 320))
    for name, corners in counts.zones.items():
        points = _pixels(image, corners)
        cv2.polylines(image, [points], True, ZONE, thickness, cv2.LINE_AA)
        left, top = points.min(axis=0)
        text = f"{name} {sum(counts.entries_of(name).values())} entered" if counts.tracked else name
        _label(image, text, int(left), int(top), ZONE, thickness)
    for name, ends in counts.lines.items():
        first, second = _pixels(image, ends)
        cv2.line(image, first.tolist(), second.tolist(), LINE, 2 * thickness, cv2.LINE_AA)
        middle, (dx, dy) = (first + second) / 2, second - first
        tip = middle + np.array([-dy, dx]) * (0.06 * min(image.shape[:2]) / max(1.0, float(np.hypot(dx, dy))))
        start, end = np.rint([middle, tip]).astype(int).tolist()
        cv2.arrowedLine(image, start, end, LINE, 2 * thickness, cv2.LINE_AA, tipLength=0.4)
        into, out = (sum(counts.crossings_of(name, direction).values()) for direction in DIRECTIONS)
        _label(image, f"{name} {into} in {out} out", int(second[0]), int(second[1]), LINE, thickness)


def _pixels(image: Image, points: Polygon) -> NDArray[np.int32]:
    height, width = image.shape[:2]
    pixels: NDArray[np.int32] = np.round(np.array(points) * (width - 1, height - 1)).astype(np.int32)
    return pixels


def class_name(names: Sequence[str], class_id: int) -> str:
    """Return the class name, or the class number if it has none."""
    return names[class_id] if 0 <= class_id < len(names) else str(class_id)


def _label(image: Image, text: str, left: int, top: int, color: Color, thickness: int) -> None:
    """Draw a filled label above the box, or inside it if there is no room above; never outside the image."""
    height, width = image.shape[:2]
    label = _rendered(text, color, max(0.35, min(height, width) / 900))
    box_height, box_width = label.shape[:2]
    x = max(0, min(left - thickness // 2, width - box_width))
    y = top - box_height if top >= box_height else max(0, min(top, height - box_height))
    part = image[y : y + box_height, x : x + box_width]
    np.copyto(part, label[: part.shape[0], : part.shape[1]])


@lru_cache(maxsize=512)  # at most 16 MB for frames of 1080p
def _rendered(text: str, color: Color, scale: float) -> Image:
    """Return a label as an image. Most labels of a frame were in the frames before it, and copying is far faster."""
    stroke = max(1, round(scale * 1.5))
    (text_width, text_height), _ = cv2.getTextSize(text, _FONT, scale, stroke)
    pad = max(2, text_height // 3)
    label = np.empty((text_height + 2 * pad, text_width + 2 * pad, 3), np.uint8)
    cv2.rectangle(label, (0, 0), label.shape[1::-1], color, cv2.FILLED)
    cv2.putText(label, text, (pad, pad + text_height), _FONT, scale, _readable_on(color), stroke, cv2.LINE_AA)
    return label


def _readable_on(color: Color) -> Color:
    """Return black or white, whichever contrasts more with `color` (relative luminance, WCAG 2)."""
    blue, green, red = ((value / 255) ** 2.2 for value in color)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)


class Canvas:
    """Annotated copies of frames, in memory that is reused."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._image: Image = np.empty((0, 0, 3), np.uint8)
        self._shapes = Shapes()

    def annotated(self, frame: Frame, detections: Detections) -> Image:
        """Return a copy of the frame's image, BGR uint8 [H, W, 3], with detections, zones and lines; valid until the
        next call."""
        if self._image.shape != frame.image.shape:
            self._image = np.empty_like(frame.image)
        np.copyto(self._image, frame.image)
        if detections.counts is not None:
            draw_counts(self._image, detections.counts)
        draw(self._image, detections, self._names, shapes=self._shapes)
        return self._image
