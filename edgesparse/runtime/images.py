"""Image files: find them, decode them and name every fault, and prepare them as batches of a model's input."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.config import InputSpec
from edgesparse.errors import ConfigError, ImageError
from edgesparse.files import read_checked
from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.runtime.preprocess import Preprocessor
from edgesparse.wording import printable

Image = NDArray[np.uint8]
"""BGR uint8 [H, W, 3]."""

Size = tuple[int, int]
"""Width and height in pixels."""

SUFFIXES = frozenset(
    ".avif .bmp .gif .heic .heif .jp2 .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
"""Suffixes of image files. Whether one can be decoded depends on the installed OpenCV."""

MAX_PIXELS = 1 << 28
"""Larger images are refused before decoding: as BGR they would take more than 805 MB."""


MAX_BYTES = 1 << 30
"""Of an image's file."""
MAX_JPEG_SIDE = 65_500
"""Pixels per side that libjpeg writes."""


def is_image(path: Path) -> bool:
    """Whether the name has an image suffix."""
    return path.suffix.lower() in SUFFIXES


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key that puts frame2.jpg before frame10.jpg."""
    parts = re.findall(r"(\d+)|(\D+)", str(path))
    return [(0, int(digits), digits) if digits else (1, 0, text) for digits, text in parts]


def image_files(folder: Path, count: int | None = None) -> list[Path]:
    """Return the images directly in a folder, in natural order; at most `count` of them, evenly spaced. Raises
    ConfigError if the folder cannot be listed or holds no images.
    """
    try:
        files = sorted(filter(is_image, folder.iterdir()), key=natural_order)
    except OSError as error:
        raise ConfigError(f"cannot list {printable(folder)}: {error.strerror}") from None
    if not files:
        raise ConfigError(f"no images in {printable(folder)}: needed files that end in {' '.join(sorted(SUFFIXES))}")
    return files if count is None else evenly(files, count)


def evenly(files: Sequence[Path], count: int) -> list[Path]:
    """Return at most `count` of the files, evenly spaced from the first on: neighbors are often of one scene."""
    count = min(count, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def read_image(path: Path, *, apply_orientation: bool = True) -> Image:
    """Read and decode an image file. See `decode_image`.

    Raises ImageError, naming the file, if it cannot be read."""
    try:
        return decode_image(read_checked(path, MAX_BYTES), apply_orientation=apply_orientation)
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError:
        reason = f"the file has more than {MAX_BYTES >> 30} GB"
    except ImageError as error:
        reason = str(error)
    raise ImageError(f"cannot read the image {printable(path)}: {reason}; replace or remove it")


def store_image(path: Path, image: Image, quality: int) -> Image:
    """Write an image as a JPEG of this quality, and return it as it is read back. Raises ImageError for a larger one
    than JPEG files may be.
    """
    height, width = image.shape[:2]
    if max(height, width) > MAX_JPEG_SIDE:
        raise ImageError(
            f"cannot store {printable(path)}: found {width}x{height} pixels, needed at most {MAX_JPEG_SIDE} per side "
            "for a JPEG: make the image smaller"
        )
    _, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    path.write_bytes(data.tobytes())
    return decode_image(data.tobytes())


def image_size(data: bytes) -> Size:
    """Return width and height of a JPEG or PNG, from its header. Raises ImageError if it has none."""
    fault, size = _inspect(data)
    if fault or size is None:
        raise ImageError(fault or "neither a JPEG nor a PNG")
    return size


def decode_image(data: bytes, *, apply_orientation: bool = True) -> Image:
    """Decode an image in memory to BGR uint8 [H, W, 3].

    16-bit samples are scaled to 8 bits, gray and CMYK are converted, an alpha channel is dropped, and an animation
    gives its first image. Unless `apply_orientation` is false, the result is rotated according to its EXIF orientation.

    Raises ImageError with the reason if the data is empty, truncated, damaged, too large or in a format that this
    OpenCV cannot decode. Truncated JPEGs are detected here: older versions of OpenCV fill the missing part with gray.
    """
    fault, size = _inspect(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        fault = f"{size[0]}x{size[1]} pixels, more than the limit of {MAX_PIXELS >> 20} million"
    if fault:
        raise ImageError(fault)
    prepare_opencv()
    flags = cv2.IMREAD_COLOR if apply_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise ImageError(_decoder_fault(error)) from None
    if image is None or not image.size:
        raise ImageError(f"damaged, or not an image that OpenCV {cv2.__version__} can decode")
    return np.asarray(image, np.uint8)


def _decoder_fault(error: cv2.error | MemoryError) -> str:
    text = str(error)
    if isinstance(error, MemoryError) or "Insufficient memory" in text or "alloc" in text:
        return "too large: not enough memory to decode it"
    return "too large for OpenCV" if "IMAGE_PIXELS" in text or "IMAGE_WIDTH" in text else "damaged"


def _inspect(data: bytes) -> tuple[str, Size | None]:
    """Return a fault visible in the file's structure, or an empty string, and the size if the header has it."""
    if not data:
        return "the file is empty", None
    if data.startswith(b"\xff\xd8"):
        return inspect_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _inspect_png(data)
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypheif"):
        return "HEIC, which OpenCV cannot decode: convert it to JPEG", None
    return "", None


_NEXT_MARKER = re.compile(rb"\xff[\x01\xc0-\xcf\xd8-\xfe]")
"""A marker other than fill bytes, stuffed bytes (FF 00) and restart markers (FF D0 to FF D7)."""


def inspect_jpeg(data: bytes) -> tuple[str, Size | None]:
    """Follow the markers (ITU-T T.81, annex B) to the end-of-image marker. Returns fault and size."""
    size, position = None, 2
    while (match := _NEXT_MARKER.search(data, position)) is not None:
        marker, position = match.group()[1], match.end()
        if marker == 0xD9:
            return ("", size) if size else ("damaged: a JPEG without a frame header", None)
        if marker in (0x01, 0xD8):
            continue
        if position + 2 > len(data):
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 3)
            size = width, height
        position += int.from_bytes(data[position : position + 2], "big")
    return "truncated: the JPEG has no end marker", size


def _inspect_png(data: bytes) -> tuple[str, Size | None]:
    """Follow the chunks to IEND and check their CRCs (PNG specification, 5.3)."""
    size, position = None, 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        if kind == b"IHDR" and length >= 8:
            width, height = struct.unpack_from(">II", data, position + 8)
            size = width, height
            if not width * height:
                return "damaged: a PNG without pixels", size
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"damaged: wrong checksum in the PNG's {kind.decode('latin-1')} chunk", size
        if kind == b"IEND":
            return "", size
        position = end
    return "truncated: the PNG has no end chunk", size


class ImageBatches:
    """Batches of images as model input: float32 [batch, 3, H, W], read again at each call.

    `images` yields BGR uint8 images, the same in each call. An incomplete last batch repeats its last image.
    """

    def __init__(self, images: Callable[[], Iterable[Image]], spec: InputSpec, batch: int = 1) -> None:
        self._images, self._spec, self._batch = images, spec, batch
        self._sizes: dict[int, Size] = {}

    @classmethod
    def from_files(cls, files: Sequence[Path], spec: InputSpec, batch: int = 1) -> ImageBatches:
        """Return batches of image files. Iterating raises ImageError for a file that cannot be read."""
        return cls(lambda: map(read_image, files), spec, batch)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image read so far."""
        return list(self._sizes.values())

    def frames(self, most: int) -> Iterator[Image]:
        """Return at most `most` of the images as they were read, spread over those read so far."""
        step = max(1, -(-len(self._sizes) // most))
        return islice(iter(self._images()), 0, None, step)

    def __call__(self) -> Iterator[NDArray[np.float32]]:
        slot = 0
        for number, image in enumerate(self._images()):
            self._sizes[number] = image.shape[0], image.shape[1]
            if slot == 0:
                buffer = np.empty((self._batch, 3, *self._spec.size), np.float32)
                preprocess = Preprocessor(self._spec, buffer)
            preprocess(image, slot)
            slot = (slot + 1) % self._batch
            if slot == 0:
                yield buffer
        if slot:
            buffer[slot:] = buffer[slot - 1]
            yield buffer
