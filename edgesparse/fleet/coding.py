"""How a file is written as its difference to another: segments of 4 MiB, each in whichever coding is smallest.

`MATCHES`: Zstandard with the old file's bytes around the same place as dictionary (`zstd --patch-from`): for text, and
for what was inserted or moved. `BYTES`: each byte minus the old byte at the same place, split into four planes by
position modulo 4, then Zstandard: for weights in INT8 or FP16 (the byte shuffle of Blosc, https://www.blosc.org, on
differences as in bsdiff, C. Percival 2003). `FLOATS`: for FP32 weights that were retrained (`float_coding`).

A decoder holds at most eleven segments, whatever it is sent: every length is checked against what may follow before
anything is decompressed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from edgesparse.errors import BackendUnavailable, DeployError
from edgesparse.fleet import float_coding

try:
    import zstandard
except ImportError as error:
    raise BackendUnavailable(f"deltas need zstandard ({error}): pip install 'edgesparse[fleet]'") from error

SEGMENT = 1 << 22
LEVEL = 19
MATCHES, BYTES, FLOATS = 0, 1, 2
_PREFIX = struct.Struct(">BI")
_WINDOW_LOG = 24
"""16 MiB: the dictionary and the segment."""
_MOST_PACKED = SEGMENT + SEGMENT // 128 + 1024
"""Zstandard expands what it cannot compress by less."""
_PLANES = 4


def encode(old: BinaryIO, old_size: int, new: BinaryIO, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield what `decode` reads. `advance`: gets the number of bytes of each segment."""
    position = 0
    while data := new.read(SEGMENT):
        packed = {MATCHES: _compressor(_around(old, position)).compress(data)}
        if position < old_size:
            before = _at(old, position, len(data))
            packed[BYTES] = _compressor(b"").compress(_planes(data, before))
            packed[FLOATS] = _compressor(b"").compress(float_coding.encode(data, before))
        coding = min(packed, key=lambda key: len(packed[key]))
        yield _PREFIX.pack(coding, len(packed[coding]))
        yield packed[coding]
        position += len(data)
        advance(len(data))


def decode(old: BinaryIO, encoded: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the `size` bytes of the new file by segments. Raises DeployError for what `encode` does not write."""
    for position in range(0, size, SEGMENT):
        length = min(SEGMENT, size - position)
        prefix = encoded.read(_PREFIX.size)
        coding, packed_length = _PREFIX.unpack(prefix) if len(prefix) == _PREFIX.size else (-1, 0)
        if coding not in (MATCHES, BYTES, FLOATS) or not 0 < packed_length <= _MOST_PACKED:
            raise _damaged()
        packed = encoded.read(packed_length)
        if coding == MATCHES:
            yield _decompressed(packed, length, _around(old, position))
        elif coding == FLOATS:
            code = _decompressed(packed, float_coding.size(length), b"")
            yield float_coding.decode(code, _at(old, position, length))[:length]
        else:
            planes = _decompressed(packed, length + -length % _PLANES, b"")
            yield _from_planes(planes, _at(old, position, length))[:length]


def _compressor(dictionary: bytes) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=_WINDOW_LOG, enable_ldm=bool(dictionary), write_checksum=0
    )
    return zstandard.ZstdCompressor(dict_data=_dictionary(dictionary), compression_params=parameters)


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict | None:
    raw = zstandard.DICT_TYPE_RAWCONTENT
    return zstandard.ZstdCompressionDict(data, dict_type=raw) if len(data) >= 8 else None


def _decompressed(packed: bytes, size: int, dictionary: bytes) -> bytes:
    """Return exactly `size` bytes; a frame that states another size is not decompressed."""
    try:
        if zstandard.get_frame_parameters(packed).content_size != size:
            raise _damaged()
        return zstandard.ZstdDecompressor(dict_data=_dictionary(dictionary)).decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError:
        raise _damaged() from None


def _around(old: BinaryIO, position: int) -> bytes:
    """Return the old segment at `position`, with the one before and the one after it."""
    begin = max(position - SEGMENT, 0)
    return _at(old, begin, position + 2 * SEGMENT - begin)


def _at(old: BinaryIO, position: int, length: int) -> bytes:
    old.seek(position)
    return old.read(length)


def _planes(data: bytes, old: bytes) -> bytes:
    difference = np.frombuffer(_padded(data, len(data)), np.uint8) - np.frombuffer(_padded(old, len(data)), np.uint8)
    return difference.reshape(-1, _PLANES).T.tobytes()


def _from_planes(planes: bytes, old: bytes) -> bytes:
    difference = np.frombuffer(planes, np.uint8).reshape(_PLANES, -1).T.reshape(-1)
    return (difference + np.frombuffer(_padded(old, len(planes)), np.uint8)).tobytes()


def _padded(data: bytes, length: int) -> bytes:
    return data.ljust(length + -length % _PLANES, b"\0")


def _damaged() -> DeployError:
    return DeployError("it is damaged: a part of it is not what this edgesparse writes")
