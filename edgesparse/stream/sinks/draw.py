"""Draws boxes and labels on images, scaled to the image size."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.sinks.shapes import Shapes

Color = tuple[int, int, int]
"""Blue, green, red, 0..255."""

Polygon = Sequence[tuple[float, float]]
"""Corners x, y as shares of the width and height."""

ZONE: Color = (0, 215, 255)
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
    for number in reversed(range(len(detections))):
        class_id = int(detections.class_id[number])
        left, top, right, bottom = (
            round(min(max(float(value) * scale, 0.0), limit - 1.0))
            for value, limit in zip(detections.xyxy[number], (width, height) * 2, strict=True)
        )
        color = palette[class_id % len(palette)]
        if shapes.draw(image, detections, number, color, thickness, scale):
            cv2.rectangle(image, (left, top), (right, bottom), color, thickness, cv2.LINE_AA)
        track = -1 if detections.track_id is None else int(detections.track_id[number])
        text = f"{class_name(names, class_id)}{f' #{track}' if track >= 0 else ''} {detections.confidence[number]:.2f}"
        _label(image, text, left, top, color, thickness)


def draw_zones(image: Image, zones: Mapping[str, Polygon]) -> None:
    """Draw the outline and the name of each zone into `image`, BGR uint8 [H, W, 3], in place."""
    height, width = image.shape[:2]
    thickness = max(1, round(min(height, width) / 320))
    for name, corners in zones.items():
        points = np.round(np.array(corners) * (width - 1, height - 1)).astype(np.int32)
        cv2.polylines(image, [points], True, ZONE, thickness, cv2.LINE_AA)
        left, top = points.min(axis=0)
        _label(image, name, int(left), int(top), ZONE, thickness)


def class_name(names: Sequence[str], class_id: int) -> str:
    """Return the class name, or the class number if it has none."""
    return names[class_id] if 0 <= class_id < len(names) else str(class_id)


def _label(image: Image, text: str, left: int, top: int, color: Color, thickness: int) -> None:
    """Draw a filled label above the box, or inside it if there is no room above; never outside the image."""
    height, width = image.shape[:2]
    scale = max(0.35, min(height, width) / 900)
    stroke = max(1, round(scale * 1.5))
    (text_width, text_height), _ = cv2.getTextSize(text, _FONT, scale, stroke)
    pad = max(2, text_height // 3)
    box_width, box_height = text_width + 2 * pad, text_height + 2 * pad
    x = max(0, min(left - thickness // 2, width - box_width))
    y = top - box_height if top >= box_height else max(0, min(top, height - box_height))
    cv2.rectangle(image, (x, y), (x + box_width - 1, y + box_height - 1), color, cv2.FILLED)
    cv2.putText(image, text, (x + pad, y + pad + text_height), _FONT, scale, _readable_on(color), stroke, cv2.LINE_AA)


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
        """Return a copy of the frame's image with its detections, BGR uint8 [H, W, 3]; valid until the next call."""
        if self._image.shape != frame.image.shape:
            self._image = np.empty_like(frame.image)
        np.copyto(self._image, frame.image)
        draw(self._image, detections, self._names, shapes=self._shapes)
        return self._image
