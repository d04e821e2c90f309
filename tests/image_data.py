"""Encoded images with properties that OpenCV cannot write."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np


def encode(suffix: str, image: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(suffix, image)
    assert encoded
    return data.tobytes()


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """BGR uint8, different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x * 4, y * 6, np.full_like(x, 30)]).astype(np.uint8)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF orientation of 1 to 8."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0" + b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + jpeg[2:]


def cmyk_jpeg(cyan: int, magenta: int, yellow: int, key: int) -> bytes:
    """A baseline JPEG of 8 x 8 equal CMYK pixels, inverted as Adobe stores them."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(body)) + body

    bits = ""
    for value in (cyan, magenta, yellow, key):
        level = 255 - value - 128
        category = abs(level).bit_length()
        bits += f"{category:04b}"  # the DC table below: category n has the four-bit code n
        if category:
            bits += f"{level if level > 0 else level + (1 << category) - 1:0{category}b}"
        bits += "0"  # end of block
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    components = [1, 2, 3, 4]
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
            segment(0xDB, b"\0" + bytes([8] * 64)),
            segment(0xC0, b"\x08\0\x08\0\x08\x04" + b"".join(bytes((n, 0x11, 0)) for n in components)),
            segment(0xC4, b"\0" + bytes((0, 0, 0, 9, *[0] * 12)) + bytes(range(9))),
            segment(0xC4, b"\x10" + bytes((1, *[0] * 15)) + b"\0"),
            segment(0xDA, b"\x04" + b"".join(bytes((n, 0)) for n in components) + b"\0\x3f\0"),
            scan,
            b"\xff\xd9",
        )
    )


def huge_png(width: int, height: int) -> bytes:
    """The header and end of a PNG of that size; no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
