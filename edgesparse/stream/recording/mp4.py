"""MP4 (ISO/IEC 14496-12) with H.264 or VP8: fragmented while it grows, a plain file once closed."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import BinaryIO

from edgesparse.stream.recording.packets import Muxer, Packet, Track

_SCALE = 90_000
"""Ticks per second."""
_RESERVED = 32 << 10
"""Bytes kept free for the index, about 1500 images."""
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_MEDIA_HEADER = struct.Struct(">I4sQ")
_KEY, _DELTA = 0x02000000, 0x01010000
"""Sample flags: depends on no other sample; depends on others and is not a sync sample."""


@dataclass
class _Samples:
    """The contents of the index: 16 bytes per image, 40 MB for a day at 30 images per second."""

    sizes: array[int] = field(default_factory=lambda: array("I"))
    ticks: array[int] = field(default_factory=lambda: array("Q"))
    keys: array[int] = field(default_factory=lambda: array("I"))
    chunks: list[tuple[int, int]] = field(default_factory=list)
    """Offset and sample count of each fragment's data."""


class Mp4Muxer(Muxer):
    """While it grows the file is a fragmented MP4: players read it up to the last fragment. `close` writes an index
    and declares the fragments as media data, so that the result is a plain MP4. The index is at the front, so that a
    player need not fetch the end first; that of a long recording does not fit there and is at the end.
    """

    def __init__(self, file: BinaryIO, track: Track, period_ns: int) -> None:
        super().__init__(file, track, period_ns)
        self._samples, self._fragments = _Samples(), 0
        file.write(_box("ftyp", b"isom\0\0\2\0isomiso5iso6mp41"))
        self._reserved_at = file.tell()
        file.write(_box("free", bytes(_RESERVED - 8)))  # becomes index and header of the media data
        file.write(_movie(track, 0, _tables(_sample_entry(track)), _EXTENDS))
        file.flush()

    def append(self, packets: Sequence[Packet]) -> None:
        samples, file = self._samples, self._file
        ticks = [packet.time_ns * _SCALE // 1_000_000_000 for packet in packets]
        ends = [*ticks[1:], ticks[-1] + self._period_ns * _SCALE // 1_000_000_000]
        rows = b"".join(
            struct.pack(">III", end - start, len(packet.data), _KEY if packet.is_key else _DELTA)
            for packet, start, end in zip(packets, ticks, ends, strict=True)
        )
        self._fragments += 1
        header = self._fragment(ticks[0], rows, len(packets), 0)
        header = self._fragment(ticks[0], rows, len(packets), len(header) + 8)
        samples.chunks.append((file.tell() + len(header) + 8, len(packets)))
        file.write(header + _box("mdat", b"".join(packet.data for packet in packets)))
        file.flush()
        samples.keys.extend(len(samples.sizes) + n for n, packet in enumerate(packets, 1) if packet.is_key)
        samples.sizes.extend(len(packet.data) for packet in packets)
        samples.ticks.extend(ticks)

    def _fragment(self, start: int, rows: bytes, count: int, data_offset: int) -> bytes:
        track = _full("tfhd", 0, 0x20000, struct.pack(">I", 1)) + _full("tfdt", 1, 0, struct.pack(">Q", start))
        run = _full("trun", 0, 0x701, struct.pack(">Ii", count, data_offset) + rows)
        return _box("moof", _full("mfhd", 0, 0, struct.pack(">I", self._fragments)) + _box("traf", track + run))

    def close(self) -> None:
        samples, file = self._samples, self._file
        end = file.tell()
        last = self._period_ns * _SCALE // 1_000_000_000
        duration = samples.ticks[-1] + last if samples.ticks else 0
        between = (after - before for before, after in pairwise(samples.ticks))
        durations = chain(between, [last] * bool(samples.ticks))
        index = _movie(self._track, duration, _tables(_sample_entry(self._track), samples, durations))
        at, left = self._reserved_at, _RESERVED - _MEDIA_HEADER.size - len(index)
        if left >= 8:  # the header of the media data counts once the box before it has become smaller
            self._write_at(at + len(index) + left, _MEDIA_HEADER.pack(1, b"mdat", end - at - len(index) - left))
            self._write_at(at, index + struct.pack(">I4s", left, b"free"))
        else:
            self._write_at(end, index)
            self._write_at(at, _MEDIA_HEADER.pack(1, b"mdat", end - at))
        file.seek(0, 2)

    def _write_at(self, position: int, data: bytes) -> None:
        self._file.seek(position)
        self._file.write(data)
        self._file.flush()


def _box(kind: str, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind.encode() + body


def _full(kind: str, version: int, flags: int, body: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags) + body)


_EXTENDS = _box("mvex", _full("trex", 0, 0, struct.pack(">5I", 1, 1, 0, 0, 0)))


def _movie(track: Track, duration: int, tables: bytes, extends: bytes = b"") -> bytes:
    """Return the movie box; with `extends`, the samples are in fragments."""
    header = struct.pack(">QQIQ", 0, 0, _SCALE, duration) + struct.pack(">IH10x", 0x10000, 0x100) + _MATRIX
    header = _full("mvhd", 1, 0, header + bytes(24) + struct.pack(">I", 2))
    place = struct.pack(">QQIIQ", 0, 0, 1, 0, duration) + bytes(16) + _MATRIX
    place += struct.pack(">II", track.width << 16, track.height << 16)
    media = _full("mdhd", 1, 0, struct.pack(">QQIQHH", 0, 0, _SCALE, duration, 0x55C4, 0))
    media += _full("hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide") + b"video\0")
    source = _box("dinf", _full("dref", 0, 0, struct.pack(">I", 1) + _full("url ", 0, 1, b"")))
    media += _box("minf", _full("vmhd", 0, 1, bytes(8)) + source + tables)
    return _box("moov", header + _box("trak", _full("tkhd", 1, 3, place) + _box("mdia", media)) + extends)


def _tables(entry: bytes, samples: _Samples | None = None, durations: Iterable[int] = ()) -> bytes:
    """Return the sample tables, empty if the samples are in fragments."""
    samples = samples or _Samples()
    runs = _runs(durations)
    chunk_runs = _first_chunks([count for _, count in samples.chunks])
    stts = struct.pack(">I", len(runs)) + b"".join(struct.pack(">II", *run) for run in runs)
    stsc = struct.pack(">I", len(chunk_runs)) + b"".join(struct.pack(">III", *run, 1) for run in chunk_runs)
    stsz = struct.pack(">II", 0, len(samples.sizes)) + _big_endian(samples.sizes)
    co64 = struct.pack(">I", len(samples.chunks)) + b"".join(struct.pack(">Q", at) for at, _ in samples.chunks)
    stss = struct.pack(">I", len(samples.keys)) + _big_endian(samples.keys)
    parts = [_full("stts", 0, 0, stts), _full("stsc", 0, 0, stsc), _full("stsz", 0, 0, stsz), _full("co64", 0, 0, co64)]
    keys = [_full("stss", 0, 0, stss)] if samples.keys else []
    return _box("stbl", _full("stsd", 0, 0, struct.pack(">I", 1) + entry) + b"".join(parts + keys))


def _big_endian(values: array[int]) -> bytes:
    swapped = array(values.typecode, values)
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped.tobytes()


def _runs(values: Iterable[int]) -> list[tuple[int, int]]:
    """Run-length encode values: (count, value)."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and runs[-1][1] == value:
            runs[-1] = runs[-1][0] + 1, value
        else:
            runs.append((1, value))
    return runs


def _first_chunks(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(first chunk, samples per chunk) wherever the number of samples changes."""
    return [(n, count) for n, count in enumerate(counts, 1) if n == 1 or counts[n - 2] != count]


def _sample_entry(track: Track) -> bytes:
    """H.264 (ISO/IEC 14496-15), or VP8 by the "VP Codec ISO Media File Format Binding": 8 bits, 4:2:0."""
    visual = struct.pack(">6xH16xHHIIIH", 1, track.width, track.height, 0x480000, 0x480000, 0, 1)
    visual += bytes(32) + struct.pack(">Hh", 24, -1)
    if track.codec == "h264":
        return _box("avc1", visual + _box("avcC", track.setup))
    return _box("vp08", visual + _full("vpcC", 1, 0, struct.pack(">BBBBBBH", 0, 10, 0x82, 2, 2, 2, 0)))
