"""The log that QEMU's `blklogwrites` writes of a disk: what a disk may hold if the power is cut at any moment.

The format is that of Linux' dm-log-writes: a superblock, then per write a header of one sector and its data.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


@dataclass(frozen=True)
class Write:
    """`data` goes to `offset`, in bytes. `flush`: what was written before is on disk; `fua`: this write too."""

    offset: int
    data: bytes
    flush: bool
    fua: bool


def read_log(path: Path) -> Iterator[Write]:
    """Yield the writes of a log, up to the first that was not logged as a whole. Raises ValueError if it is none."""
    with path.open("rb") as file:
        magic, version, _, sector = _SUPER.unpack(file.read(_SUPER.size))
        if (magic, version, sector) != (MAGIC, 1, SECTOR):
            raise ValueError(f"{path}: not a log of writes: {magic:x}, version {version}, sectors of {sector}")
        position, size = SECTOR, path.stat().st_size
        while position + SECTOR <= size:
            file.seek(position)
            start, count, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
            length = 0 if flags & DISCARD else count * SECTOR
            if (not count and not flags) or position + SECTOR + length > size:
                return
            file.seek(position + SECTOR)
            yield Write(start * SECTOR, file.read(length), bool(flags & FLUSH), bool(flags & FUA))
            position += SECTOR + length


def survivors(writes: Sequence[Write], count: int, rng: random.Random) -> list[Write]:
    """Return what a disk may hold of the first `count` writes: all before the last flush, and of those after it any.

    A disk may write what it holds in its cache in any order, and tear it between sectors.
    """
    flushed = max((number for number in range(count) if writes[number].flush), default=0)
    kept = list(writes[:flushed])
    for write in writes[flushed:count]:
        fate = rng.random()
        if write.fua or fate < 0.6:
            kept.append(write)
        elif fate < 0.8 and len(write.data) > SECTOR:
            whole = rng.randrange(1, len(write.data) // SECTOR) * SECTOR
            kept.append(Write(write.offset, write.data[:whole], False, False))
    return kept


def apply(writes: Sequence[Write], disk: Path) -> None:
    with disk.open("r+b") as file:
        for write in writes:
            file.seek(write.offset)
            file.write(write.data)
