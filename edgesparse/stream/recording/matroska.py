"""Matroska (RFC 9559): writes WebM files with VP8, and extracts packets from files written by OpenCV."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from edgesparse.stream.recording.packets import Muxer, Packet, Track

_EBML, _SEGMENT, _INFO, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1654AE6B
_TRACK_ENTRY, _VIDEO, _PIXEL_WIDTH, _PIXEL_HEIGHT = 0xAE, 0xE0, 0xB0, 0xBA
_CLUSTER, _TIMESTAMP, _SIMPLE_BLOCK = 0x1F43B675, 0xE7, 0xA3
_CUES, _SEEK_HEAD, _VOID, _DURATION = 0x1C53BB6B, 0x114D9B74, 0xEC, 0x4489
_TICK_NS = 1_000_000
_UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
_SEEK_HEAD_BYTES = 80


class WebmMuxer(Muxer):
    """A WebM file of VP8: a cluster for each call of `append`, and an index of the clusters at the end."""

    def __init__(self, file: BinaryIO, track: Track, period_ns: int) -> None:
        super().__init__(file, track, period_ns)
        self._clusters: list[tuple[int, int]] = []
        """Ticks and offset of each cluster."""
        file.write(_element(_EBML, _EBML_HEADER) + _id(_SEGMENT))
        self._size_at = file.tell()
        file.write(_UNKNOWN_SIZE)
        self._start = file.tell()
        file.write(_void(_SEEK_HEAD_BYTES))
        info = _uint(0x2AD7B1, _TICK_NS) + _text(0x4D80, "edgesparse") + _text(0x5741, "edgesparse")
        duration = _element(_DURATION, struct.pack(">d", 0))
        file.write(_element(_INFO, info + duration))
        self._duration_at = file.tell() - 8
        video = _uint(_PIXEL_WIDTH, track.width) + _uint(_PIXEL_HEIGHT, track.height)
        entry = _uint(0xD7, 1) + _uint(0x73C5, 1) + _uint(0x83, 1) + _text(0x86, "V_VP8")
        entry += _uint(0x23E383, period_ns) + _element(_VIDEO, video)
        file.write(_element(_TRACKS, _element(_TRACK_ENTRY, entry)))

    def append(self, packets: Sequence[Packet]) -> None:
        file, first = self._file, packets[0].time_ns // _TICK_NS
        self._clusters.append((first, file.tell() - self._start))
        body = _uint(_TIMESTAMP, first)
        for packet in packets:
            ticks, flags = packet.time_ns // _TICK_NS - first, 0x80 if packet.is_key else 0
            body += _element(_SIMPLE_BLOCK, b"\x81" + struct.pack(">hB", ticks, flags) + packet.data)
        file.write(_element(_CLUSTER, body))
        end = file.tell()
        file.seek(self._duration_at)
        file.write(struct.pack(">d", (packets[-1].time_ns + self._period_ns) / _TICK_NS))
        file.seek(end)
        file.flush()

    def close(self) -> None:
        file = self._file
        cues_at = file.tell() - self._start
        file.write(_element(_CUES, b"".join(_cue(ticks, offset) for ticks, offset in self._clusters)))
        end = file.tell()
        seek = _element(0x4DBB, _element(0x53AB, _id(_CUES)) + _uint(0x53AC, cues_at))
        head = _element(_SEEK_HEAD, seek)
        file.seek(self._start)
        file.write(head + _void(_SEEK_HEAD_BYTES - len(head)))
        file.seek(self._size_at)
        file.write(b"\x01" + (end - self._start).to_bytes(7, "big"))
        file.seek(end)
        file.flush()


def _cue(ticks: int, offset: int) -> bytes:
    return _element(0xBB, _uint(0xB3, ticks) + _element(0xB7, _uint(0xF7, 1) + _uint(0xF1, offset)))


def _id(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _element(number: int, body: bytes) -> bytes:
    return _id(number) + (len(body) | 1 << 56).to_bytes(8, "big") + body


def _void(length: int) -> bytes:
    return _element(_VOID, bytes(length - 9))


def _uint(number: int, value: int) -> bytes:
    return _element(number, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def _text(number: int, value: str) -> bytes:
    return _element(number, value.encode())


_EBML_HEADER = (
    _uint(0x4286, 1) + _uint(0x42F7, 1) + _uint(0x42F2, 4) + _uint(0x42F3, 8)
    + _text(0x4282, "webm") + _uint(0x4287, 4) + _uint(0x4285, 2)
)  # fmt: skip


def read_packets(data: bytes) -> tuple[Track, list[tuple[bytes, bool]]]:
    """Return the track of a single-track Matroska file, and each packet with whether it is a key frame. Raises
    ValueError if the file is not complete.
    """
    elements = dict(_elements(data, 0, len(data)))
    if _SEGMENT not in elements:
        raise ValueError("no Matroska segment")
    track, packets = None, []
    for number, (start, end) in _elements(data, *elements[_SEGMENT]):
        if number == _TRACKS:
            track = _track(data, start, end)
        elif number == _CLUSTER:
            blocks = [span for kind, span in _elements(data, start, end) if kind == _SIMPLE_BLOCK]
            packets += [(data[first + 4 : last], bool(data[first + 3] & 0x80)) for first, last in blocks]
    if track is None:
        raise ValueError("no Matroska track")
    return track, packets


def _track(data: bytes, start: int, end: int) -> Track:
    entry = dict(_elements(data, *dict(_elements(data, start, end))[_TRACK_ENTRY]))
    video = dict(_elements(data, *entry[_VIDEO]))
    width, height = (int.from_bytes(data[slice(*video[key])], "big") for key in (_PIXEL_WIDTH, _PIXEL_HEIGHT))
    return Track(width, height)


def _elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield each element's number, and where its body starts and ends."""
    while start < end:
        length = 9 - data[start].bit_length()
        number = int.from_bytes(data[start : start + length], "big")
        start += length
        length = 9 - data[start].bit_length()
        size = int.from_bytes(data[start : start + length], "big") & (1 << 7 * length) - 1
        start += length
        if start + size > end:
            raise ValueError("an element of a Matroska file ends behind it")
        yield number, (start, start + size)
        start += size
