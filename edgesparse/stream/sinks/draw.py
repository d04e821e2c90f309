"""Boxes and labels on an image, sized to it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Image

Colour = tuple[int, int, int]
"""Blue, green, red, 0..255."""

_GOLDEN = 0.618034


def _colour(number: int) -> Colour:
    """Hues a golden section apart, in three shades: neighbours in number are far apart in colour."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + number * _GOLDEN) % 1, 0.85 - 0.15 * (number % 3), 0.95)
    return round(255 * blue), round(255 * green), round(255 * red)


PALETTE: tuple[Colour, ...] = tuple(_colour(number) for number in range(24))

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(image: Image, detections: Detections, names: Sequence[str], *, palette: Sequence[Colour] = PALETTE) -> None:
    """Draw every detection into `image`, BGR uint8 [H, W, 3], in place; the most confident ends up on top."""
    height, width = image.shape[:2]
    thickness = max(1, round(min(height, width) / 240))
    for number in reversed(range(len(detections))):
        class_id = int(detections.class_id[number])
        left, top, right, bottom = (
            round(min(max(float(value), 0.0), limit - 1.0))
            for value, limit in zip(detections.xyxy[number], (width, height) * 2, strict=True)
        )
        colour = palette[class_id % len(palette)]
        cv2.rectangle(image, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
        text = f"{class_name(names, class_id)} {detections.confidence[number]:.2f}"
        _label(image, text, left, top, colour, thickness)


def class_name(names: Sequence[str], class_id: int) -> str:
    """The class's name; its number where it has none."""
    return names[class_id] if 0 <= class_id < len(names) else str(class_id)


def _label(image: Image, text: str, left: int, top: int, colour: Colour, thickness: int) -> None:
    """A filled label on the box's upper edge, inside it where there is no room above; never outside the image."""
    height, width = image.shape[:2]
    scale = max(0.35, min(height, width) / 900)
    stroke = max(1, round(scale * 1.5))
    (text_width, text_height), _ = cv2.getTextSize(text, _FONT, scale, stroke)
    pad = max(2, text_height // 3)
    box_width, box_height = text_width + 2 * pad, text_height + 2 * pad
    x = max(0, min(left - thickness // 2, width - box_width))
    y = top - box_height if top >= box_height else max(0, min(top, height - box_height))
    cv2.rectangle(image, (x, y), (x + box_width - 1, y + box_height - 1), colour, cv2.FILLED)
    cv2.putText(image, text, (x + pad, y + pad + text_height), _FONT, scale, _readable_on(colour), stroke, cv2.LINE_AA)


def _readable_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more with `colour` (relative luminance, WCAG 2)."""
    blue, green, red = ((value / 255) ** 2.2 for value in colour)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)
