"""AVI with Motion JPEG at a constant frame rate; empty chunks after an image show it for longer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import BinaryIO

from edgesparse.stream.recording.packets import Muxer, Packet, Track

RIFF_BYTES = 1 << 30
"""Size at which a RIFF list ends and the next begins, as OpenDML requires."""


class AviMuxer(Muxer):
    """An AVI file of JPEGs. Sizes and the number of images are updated with each call of `append`."""

    def __init__(self, file: BinaryIO, track: Track, period_ns: int) -> None:
        super().__init__(file, track, period_ns)
        self._slots = 0
        """Images and empty chunks so far."""
        self._index: list[tuple[int, int]] = []
        """Offset and size of each chunk of the first list; empty chunks have none."""
        self._first = True
        self._begin(b"AVI ", self._headers())

    def _headers(self) -> bytes:
        width, height = self._track.width, self._track.height
        rate, scale = Fraction(1_000_000_000, self._period_ns).limit_denominator(1001).as_integer_ratio()
        main = struct.pack("<14I", self._period_ns // 1000, 0, 0, 0x10, 0, 0, 1, 0, width, height, 0, 0, 0, 0)
        stream = struct.pack("<4s4sIHHIIIIIIII4H", b"vids", b"MJPG", 0, 0, 0, 0, scale, rate, 0, 0, 0, 0xFFFFFFFF, 0,
                             0, 0, width, height)  # fmt: skip
        bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 3 * width * height, 0, 0, 0, 0)
        streams = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", bitmap))
        return _list(b"hdrl", _chunk(b"avih", main) + streams)

    def _begin(self, kind: bytes, headers: bytes) -> None:
        file = self._file
        self._riff_at = file.tell()
        file.write(struct.pack("<4sI4s", b"RIFF", 0, kind) + headers)
        self._movi_at = file.tell()
        file.write(struct.pack("<4sI4s", b"LIST", 0, b"movi"))

    def append(self, packets: Sequence[Packet]) -> None:
        for packet in packets:
            for _ in range(round(packet.time_ns / self._period_ns) - self._slots):
                self._write(b"")
            self._write(packet.data)
        self._update_sizes()
        if self._file.tell() - self._riff_at > RIFF_BYTES:
            self._end()
            self._begin(b"AVIX", b"")

    def _write(self, data: bytes) -> None:
        if self._first:
            self._index.append((self._file.tell() - self._movi_at - 8, len(data)))
        self._file.write(_chunk(b"00dc", data))
        self._slots += 1

    def _update_sizes(self) -> None:
        file = self._file
        end = file.tell()
        sizes = [(self._riff_at + 4, end - self._riff_at - 8), (self._movi_at + 4, end - self._movi_at - 8)]
        counts = [(48, self._slots), (140, self._slots)]  # in avih and strh
        for at, value in sizes + counts:
            file.seek(at)
            file.write(struct.pack("<I", value))
        file.seek(end)
        file.flush()

    def _end(self) -> None:
        """Finish a RIFF list, the first one with its index."""
        if self._first:
            rows = [struct.pack("<4sIII", b"00dc", 0x10 * bool(size), at, size) for at, size in self._index]
            self._file.write(_chunk(b"idx1", b"".join(rows)))
            self._first = False
            file, end = self._file, self._file.tell()
            file.seek(self._riff_at + 4)
            file.write(struct.pack("<I", end - self._riff_at - 8))
            file.seek(end)
            file.flush()

    def close(self) -> None:
        self._end()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(data)) + data + bytes(len(data) % 2)


def _list(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI4s", b"LIST", 4 + len(body), kind) + body
