"""The structures of letterbox.cuh as NumPy dtypes, and their values."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import MOST_IMAGES, PIXELS, Place
from edgesparse.config import InputSpec

Row = NDArray[Any]
"""One structure: an array of one element."""


def struct(text: str) -> np.dtype[Any]:
    """A dtype from text such as 'u8 data, i4 pixels, 4i4 rows', in the layout of the C structure."""
    fields = [part.split() for part in text.split(",")]
    return np.dtype([(name, kind) for kind, name in fields])


IMAGE = struct(
    "u8 data, i4 pixels, i4 pitch, i4 width, i4 height, i4 top, i4 left, i4 rows, i4 columns, i4 taps, i4 chroma"
)
TAP = struct("i4 at, i2 near, i2 far")
VIEW = struct("2f4 offset, 2f4 scale, 2f4 limit")
INPUT = struct("i4 height, i4 width, i4 swap, i4 pad, 3f4 scale, 3f4 shift")
_WHOLE = 2048
IMAGES = MOST_IMAGES
"""As in letterbox.cuh."""


_BYTES = {"bgr": 3, "rgb": 3, "nv12": 1, "yuyv": 2}
"""Per pixel; of NV12, those of its luma."""


@lru_cache(64)
def taps(source: int, target: int, columns: bool) -> NDArray[Any]:
    """The two neighbors, and their weights, of each pixel of a side resized from `source` to `target` pixels.

    Like OpenCV's resize (INTER_LINEAR) of 8 bits: positions in float32, weights of 11 bits. Columns are clamped here,
    rows where they are read. The last column becomes the second of a pair, so that nothing beyond it is read.
    """
    scale = 1.0 / (target / source)
    at = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    far = (at - first.astype(np.float32)).astype(np.float32)
    if columns:
        far[(first < 0) | (first >= source - 1)] = 0
        first = np.clip(first, 0, source - 1)
    pairs = np.zeros(target, TAP)
    pairs["near"] = np.rint((np.float32(1) - far) * np.float32(_WHOLE))
    pairs["far"] = np.rint(far * np.float32(_WHOLE))
    if columns and source > 1:
        last = first == source - 1
        first[last], pairs["near"][last], pairs["far"][last] = source - 2, 0, _WHOLE
    pairs["at"] = first
    return pairs


def input_of(spec: InputSpec, step: float = 1.0) -> Row:
    """The input's structure: (pixel * scale - mean) / std, in units of `step`, as one product and one sum."""
    row = np.zeros(1, INPUT)
    row["height"], row["width"] = spec.size
    row["swap"], row["pad"] = spec.colour == "rgb", spec.pad
    std = np.array(spec.std, np.float64) * step
    row["scale"], row["shift"] = spec.scale / std, -np.array(spec.mean, np.float64) / std
    return row


def image_of(place: Place, row: Any, first_tap: int, out: NDArray[Any] | None) -> int:
    """Fill `row`, except its data, and the taps from `first_tap` on; None: a kernel that needs none reads it.

    Returns the index after the last tap.
    """
    seen = place.seen
    row["pixels"], row["pitch"] = PIXELS.index(place.pixels), (pitch := _pitch(place))
    row["width"], row["height"] = seen.width, seen.height
    # A part begins as far to the right in the colors as in the rows, and half as far down.
    row["chroma"] = (place.chroma or place.frame_height * pitch) - (seen.top - seen.top // 2) * pitch
    row["top"], row["left"], row["rows"], row["columns"] = place.top, place.left, place.height, place.width
    if out is None:
        return first_tap
    row["taps"], middle, end = first_tap, first_tap + place.width, first_tap + place.width + place.height
    out[first_tap:middle] = taps(seen.width, place.width, True)
    out[middle:end] = taps(seen.height, place.height, False)
    return end


def view_of(place: Place, row: Any) -> None:
    """Fill `row` with what converts boxes to the pixels of what the model sees, in the values of a Letterbox."""
    seen = place.seen
    row["offset"], row["limit"] = (place.left, place.top), (seen.width, seen.height)
    row["scale"] = place.width / seen.width, place.height / seen.height


def offset_of(place: Place) -> int:
    """Where the part that the model sees begins, in bytes from the frame's first."""
    part = place.part
    return 0 if part is None else part.top * _pitch(place) + part.left * _BYTES[place.pixels]


def _pitch(place: Place) -> int:
    return place.pitch or place.frame_width * _BYTES[place.pixels]
