"""The images in a request's body: JPEG, PNG, raw pixels, or several in a multipart body."""

from __future__ import annotations

import math

import cv2
import numpy as np
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from edgesparse.backends.frames import PIXELS
from edgesparse.errors import ImageError
from edgesparse.runtime.cpu_slot import TO_BGR
from edgesparse.runtime.images import Image, decode_image, image_size
from edgesparse.service.web.inference import Held, Refusal

MAX_IMAGES = 16
"""Images of a request."""
MAX_PIXELS = 1 << 24
"""Pixels of an image."""
MAX_RATIO = 64
"""Ratio of an image's longer side to its shorter one."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_NEEDED = (
    "needed a JPEG or PNG image, several as multipart/form-data, or raw pixels with ?width=W&height=H&pixels="
    + "|".join(PIXELS)
)


def images_of(body: bytes, kind: str, raw: tuple[int, int, str] | None, held: Held) -> list[Image]:
    """Return a body's images, BGR uint8 [H, W, 3]. `kind`: its Content-Type. `raw`: width, height and pixel format.

    Raises Refusal."""
    name, options = parse_options_header(kind)
    boundary = options.get(b"boundary")
    if raw is not None:
        return [raw_image(body, *raw, held)]
    if not name.startswith(b"multipart/"):
        return [_decoded(body, held)]
    if not boundary:
        raise Refusal(400, "found a multipart body without a boundary in its Content-Type")
    held.take(2 * len(body))  # each part is collected, and copied once
    parts = _parts(body, boundary)
    if not parts:
        raise Refusal(400, "found a multipart body without parts, needed an image in each")
    return [_decoded(part, held) for part in parts]


def raw_image(data: bytes | memoryview, width: int, height: int, pixels: str, held: Held) -> Image:
    """Return raw pixels (backends/frames.py) as BGR. Raises Refusal."""
    if pixels not in PIXELS:
        raise Refusal(400, f"found pixels={pixels}, needed one of {', '.join(PIXELS)}")
    shape = {"nv12": (height * 3 // 2, width), "yuyv": (height, width, 2)}.get(pixels, (height, width, 3))
    if (pixels == "nv12" and height % 2) or (pixels in ("nv12", "yuyv") and width % 2):
        raise Refusal(400, f"found {width}x{height} pixels in {pixels}, needed even sides")
    _check_size(width, height)
    if len(data) != math.prod(shape):
        raise Refusal(
            400, f"found {len(data)} bytes, needed {math.prod(shape)} for {width}x{height} pixels in {pixels}"
        )
    image = np.frombuffer(data, np.uint8).reshape(shape)
    if pixels == "bgr":
        return image
    held.take(3 * width * height)
    return np.asarray(cv2.cvtColor(image, TO_BGR[pixels]), np.uint8)


def _decoded(data: bytes, held: Held) -> Image:
    if not data.startswith(_SIGNATURES):
        raise Refusal(415, f"found neither a JPEG nor a PNG image: {_NEEDED}")
    try:
        width, height = image_size(data)
        _check_size(width, height)
        held.take(3 * width * height)
        return decode_image(data)
    except ImageError as error:
        raise Refusal(400, f"cannot read the image: {error}") from None


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise Refusal(413, f"found an image of {width}x{height} pixels, needed at most {MAX_PIXELS:,}: send it smaller")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise Refusal(400, f"found an image of {width}x{height} pixels, needed sides of a ratio up to {MAX_RATIO}")


def _parts(body: bytes, boundary: bytes) -> list[bytes]:
    """Return the contents of a multipart body (RFC 7578). Raises Refusal if it is damaged or has too many parts."""
    parts: list[bytearray] = []

    def begin() -> None:
        if len(parts) == MAX_IMAGES:
            raise Refusal(413, f"found more than {MAX_IMAGES} images, needed at most that many per request")
        parts.append(bytearray())

    def data(piece: bytes, start: int, end: int) -> None:
        parts[-1] += piece[start:end]

    try:
        parser = MultipartParser(boundary, {"on_part_begin": begin, "on_part_data": data})
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(400, f"found a damaged multipart body: {error}") from None
    return [bytes(part) for part in parts]
