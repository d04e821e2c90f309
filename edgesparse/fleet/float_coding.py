"""The difference of two pieces of a file that hold FP32 weights, as bytes that compress well.

As integers in the order of their values, floats that are near each other are near (as in M. Isenburg et al., Lossless
Compression of Predicted Floating-Point Geometry, 2005). The difference is written with its sign in the lowest bit. It
is large where the weight is small, since the spacing of floats follows the exponent; so differences are sorted by the
exponent of the old weight, which the decoder knows, and then split into four planes of bytes.

Weights need not begin at a multiple of four bytes in a file. Each block is rotated by 0 to 3 bytes, whichever makes its
differences smallest; the rotations come before the planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 14
_WIDTH = 4
_Words = NDArray[np.uint32]
_MAGNITUDE = np.int32(0x7FFFFFFF)


def size(length: int) -> int:
    """Return the size of the code of `length` bytes."""
    return _blocks(length) * (1 + BLOCK)


def encode(new: bytes, old: bytes) -> bytes:
    """Return the code of `new` against `old`, which may be shorter."""
    ours, before = _padded(new, len(new)), _padded(old, len(new))
    candidates = [_difference(_words(ours, shift), _words(before, shift)) for shift in range(_WIDTH)]
    costs = [np.log2(1.0 + words).reshape(len(ours), -1).sum(axis=1) for words in candidates]
    rotation = np.argmin(costs, axis=0).astype(np.uint8)
    words, base = np.empty_like(candidates[0]), np.empty_like(candidates[0])
    for shift, rows in _rows(rotation):
        words[rows], base[rows] = candidates[shift][rows], _words(before, shift)[rows]
    planes = words.ravel()[_order(base)].view(np.uint8).reshape(-1, _WIDTH).T
    return bytes(rotation.tobytes() + planes.tobytes())


def decode(code: bytes, old: bytes) -> bytes:
    """Return the bytes that `encode` was called with, padded to whole blocks. `code`: of `size` bytes."""
    count = len(code) // (1 + BLOCK)
    rotation = np.frombuffer(code, np.uint8, count) % _WIDTH
    before = _padded(old, count * BLOCK)
    base = np.empty((count, BLOCK // _WIDTH), np.uint32)
    for shift, rows in _rows(rotation):
        base[rows] = _words(before[rows], shift)
    planes = np.frombuffer(code, np.uint8, offset=count).reshape(_WIDTH, -1)
    words = np.empty(base.size, np.uint32)
    words[_order(base)] = np.ascontiguousarray(planes.T).view(np.uint32).ravel()
    new = _restored(words.reshape(base.shape), base).view(np.uint8)
    for shift, rows in _rows(rotation):
        new[rows] = np.roll(new[rows], shift, axis=1)
    return new.tobytes()


def _difference(new: _Words, old: _Words) -> _Words:
    change = (_ordered(new) - _ordered(old)).view(np.int32)
    return ((change << 1) ^ (change >> 31)).view(np.uint32)


def _restored(words: _Words, old: _Words) -> _Words:
    change = (words >> np.uint32(1)) ^ -(words & np.uint32(1))
    return _ordered(_ordered(old) + change)


def _ordered(words: _Words) -> _Words:
    """Map floats to integers in the order of their values; also the inverse."""
    signed = words.view(np.int32)
    return np.where(signed < 0, signed ^ _MAGNITUDE, signed).view(np.uint32)


def _order(base: _Words) -> NDArray[Any]:
    return np.argsort((base.ravel() >> np.uint32(23)).astype(np.uint8), kind="stable")


def _words(blocks: NDArray[np.uint8], shift: int) -> _Words:
    return np.ascontiguousarray(np.roll(blocks, -shift, axis=1)).view("<u4").astype(np.uint32, copy=False)


def _rows(rotation: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for shift in range(_WIDTH):
        yield shift, rotation == shift


def _padded(data: bytes, length: int) -> NDArray[np.uint8]:
    whole = _blocks(length) * BLOCK
    return np.frombuffer(data[:whole].ljust(whole, b"\0"), np.uint8).reshape(-1, BLOCK)


def _blocks(length: int) -> int:
    return -(-length // BLOCK)
