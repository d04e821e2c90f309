"""Draws boxes and labels, zones and lines on images, scaled to the image size."""

from __future__ import annotations

import colorsys
import re
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
    words, outlines = _words(detections, names), _outlines(corners, image, thickness)
    for number in reversed(range(len(detections))):
        (left, top, _, _), color = places[number], colors[number]
        if shapes.draw(image, detections, number, color, thickness, scale):
            _outline(image, outlines[number], _row(color, width))
        _label(image, words[number], left, top, color, thickness)


def _outlines(corners: NDArray[np.float64], image: Image, thickness: int) -> list[list[int]]:
    """Return the outer and inner edges of lines around boxes [n, 4]: left, top, right, bottom of each, within the
    image, where right and bottom are the first pixels beyond."""
    before, limit = thickness // 2, image.shape[1::-1] * 2
    after = thickness - before
    spread = np.array([-before, -before, after, after, after, after, -before, -before], np.float64)
    first, last = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    edges = np.concatenate([first, last] * 2, axis=1) + spread
    places: list[list[int]] = np.clip(edges, 0, limit * 2).astype(np.intp).tolist()
    return places


def _outline(image: Image, edges: list[int], row: Image) -> None:
    """Copy a row of one color into the four sides of a box, which is several times as fast as cv2.rectangle."""
    left, top, right, bottom, inner_left, inner_top, inner_right, inner_bottom = edges
    across, inside = row[: right - left], slice(inner_top, inner_bottom)
    image[top:inner_top, left:right] = across
    image[inner_bottom:bottom, left:right] = across
    image[inside, left:inner_left] = row[: inner_left - left]
    image[inside, inner_right:right] = row[: right - inner_right]


@lru_cache(maxsize=64)
def _row(color: Color, width: int) -> Image:
    """Return pixels of one color [width, 3]."""
    return np.full((width, 3), color, np.uint8)


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
    scale = max(0.35, min(height, width) / 900)
    tiles = [_tile(piece, color, scale) for piece in ("", *_PIECES.findall(text), "")]
    box_height, box_width = tiles[0].shape[0], sum(tile.shape[1] for tile in tiles)
    x = max(0, min(left - thickness // 2, width - box_width))
    y = top - box_height if top >= box_height else max(0, min(top, height - box_height))
    part = image[y : y + box_height, x : x + box_width]
    if part.shape[:2] == (box_height, box_width):
        cv2.hconcat(tiles, part)
    else:
        np.copyto(part, cv2.hconcat(tiles)[: part.shape[0], : part.shape[1]])


_PIECES = re.compile(r"\d|\D+")
"""Digits, and what is between them: names."""


@lru_cache(maxsize=1024)  # of 80 names and all digits in 24 colors, 3 MB for frames of 1080p
def _tile(piece: str, color: Color, scale: float) -> Image:
    """Return one piece of a label as an image; without a piece, the margin at either end.

    Numbers differ from frame to frame, but names and digits do not, and copying them is far faster than drawing.
    """
    stroke = max(1, round(scale * 1.5))

    def size(text: str) -> tuple[int, int]:
        (text_width, text_height), _ = cv2.getTextSize(text, _FONT, scale, stroke)
        return text_width, text_height

    pair, text_height = size("00")
    pad = max(2, text_height // 4)
    # The distance to the next character, which is more than the width of this one.
    advance = max(1, size(f"0{piece}0")[0] - pair) if piece else pad
    tile = np.empty((text_height + 2 * pad, advance, 3), np.uint8)
    cv2.rectangle(tile, (0, 0), (advance, tile.shape[0]), color, cv2.FILLED)
    cv2.putText(tile, piece, (0, pad + text_height), _FONT, scale, _readable_on(color), stroke, cv2.LINE_AA)
    return tile


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
