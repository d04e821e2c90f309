"""Encoded images, and the interface of the files that they are written to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO


@dataclass(frozen=True)
class Packet:
    """One encoded image. Times are in nanoseconds from the start of the recording."""

    data: bytes = field(repr=False)
    time_ns: int
    is_key: bool
    """Whether it can be decoded without earlier packets."""


@dataclass(frozen=True)
class Track:
    """How to decode the packets of a recording."""

    width: int
    height: int
    codec: str = "vp8"
    """`h264`, `vp8` or `mjpeg`."""
    setup: bytes = b""
    """The decoder configuration of H.264 (ISO/IEC 14496-15); empty for other codecs."""


class Muxer(ABC):
    """Writes packets to a file that can be played, however the process ends.

    Packets can be read as soon as `append` returns. `close` makes the file seekable; it does not close the
    file object. The methods raise OSError.
    """

    def __init__(self, file: BinaryIO, track: Track, period_ns: int) -> None:
        """`period_ns`: how long the last image is shown."""
        self._file, self._track, self._period_ns = file, track, period_ns

    @abstractmethod
    def append(self, packets: Sequence[Packet]) -> None:
        """Write the next packets, at least one; the first is a key frame."""

    @abstractmethod
    def close(self) -> None:
        """Write what players need for seeking."""
