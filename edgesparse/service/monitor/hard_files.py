"""The files of hard frames: an image and a record each, within a budget of bytes and of frames per day."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgesparse.errors import SinkError
from edgesparse.files import read_regular, replacing
from edgesparse.service.monitor.hard_settings import Reason
from edgesparse.service.monitor.obscure import Blur
from edgesparse.values import Section, Unit

log = logging.getLogger("edgesparse.service")

DAY_NS = 86_400_000_000_000
SPARE_BYTES = 64 << 20
"""Bytes that must stay free on the disk."""
MOST_RECORD = 1 << 20
"""Bytes of a record."""
MOST_IMAGE = 64 << 20
"""Bytes of an image."""
_NAME = re.compile(r"(\d{6,12})_\d{8}T\d{9}Z_[a-z0-9-]{1,64}")
_Pixels = Annotated[int, Field(ge=1, le=1 << 20)]


class SeenObject(Section):
    """A detection. `box`: left, top, right, bottom in pixels of the image."""

    name: str
    class_id: Annotated[int, Field(ge=0, le=1 << 31)]
    confidence: Unit
    box: tuple[float, float, float, float]


class HardFrame(Section):
    """The record of a stored frame. `sha256`: of the image file. `engine`: the SHA-256 of the engine's file."""

    file: Annotated[str, Field(pattern=_NAME.pattern + r"\.jpg$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    camera: str
    time: str
    reasons: tuple[Reason, ...]
    model: str
    package: str
    engine: str
    classes: tuple[str, ...]
    width: _Pixels
    height: _Pixels
    blur: Blur
    detections: tuple[SeenObject, ...]


@dataclass(frozen=True)
class _Kept:
    """An image and its record on disk."""

    number: int
    path: Path
    size: int


class HardFiles:
    """Used in one thread at a time. Raises SinkError if the folder cannot be read or written."""

    def __init__(self, folder: Path, most_bytes: int, per_day: int) -> None:
        self.folder, self._most, self._per_day = folder, most_bytes, per_day
        self._kept = deque(sorted(_kept(folder), key=lambda kept: kept.number))
        self.bytes = sum(kept.size for kept in self._kept)
        now, wall = time.monotonic_ns(), time.time_ns()
        ages = sorted(max(0, wall - kept.path.stat().st_mtime_ns) for kept in self._kept)
        self._stored = deque((now - age for age in reversed(ages) if age < DAY_NS), maxlen=per_day)
        """When the frames of the last 24 hours were stored, on the monotonic clock."""

    def __len__(self) -> int:
        return len(self._kept)

    def today(self, now_ns: int) -> int:
        """Return the number of frames stored in the 24 hours before `now_ns`, on the monotonic clock."""
        return sum(now_ns - stored < DAY_NS for stored in tuple(self._stored))

    def store(self, jpeg: bytes, name: str, now_ns: int, record: Callable[[str, str], HardFrame]) -> bool:
        """Store an image and the record that `record` makes of its file name and hash, unless the day's budget is
        spent; the oldest are removed to make room. Returns whether it was stored. Raises OSError, and SinkError on a
        disk that is nearly full or for an image that the budget cannot hold.
        """
        if self.today(now_ns) >= self._per_day:
            return False
        number = self._kept[-1].number + 1 if self._kept else 1
        stem = f"{number:06d}_{name}"
        text = record(f"{stem}.jpg", hashlib.sha256(jpeg).hexdigest()).model_dump_json().encode()
        size = len(jpeg) + len(text)
        if size > self._most:
            raise SinkError(f"found a frame of {size} bytes, needed service.hard_frames.disk to be larger")
        while self._kept and self.bytes + size > self._most:
            self._remove(self._kept.popleft())
        if shutil.disk_usage(self.folder).free < SPARE_BYTES + size:
            raise SinkError(f"less than {SPARE_BYTES >> 20} MB are free")
        image = self.folder / f"{stem}.jpg"
        for path, data in ((image, jpeg), (image.with_suffix(".json"), text)):
            with replacing(path, mode=0o600, synced=True) as file:
                file.write(data)
        self._kept.append(_Kept(number, image, size))
        self.bytes += size
        self._stored.append(now_ns)
        return True

    def _remove(self, kept: _Kept) -> None:
        kept.path.with_suffix(".json").unlink(missing_ok=True)  # first: an image without a record does not count
        kept.path.unlink(missing_ok=True)
        self.bytes -= kept.size


def _kept(folder: Path) -> Iterator[_Kept]:
    """Yield what a previous process stored; what it left half-written is removed."""
    for image in sorted(folder.glob("*.jpg")):
        match, record = _NAME.fullmatch(image.stem), image.with_suffix(".json")
        if match is None or image.is_symlink():
            continue
        if record.is_file():
            yield _Kept(int(match[1]), image, image.stat().st_size + record.stat().st_size)
        else:
            image.unlink(missing_ok=True)
    for part in folder.glob(".*.part"):
        if _NAME.match(part.name[1:]):
            part.unlink(missing_ok=True)


def read_frames(folder: Path) -> Iterator[tuple[HardFrame, bytes] | str]:
    """Yield each stored frame with its image, or why it cannot be used: `NAME: reason`."""
    for path in sorted(folder.glob("*.json")):
        if _NAME.fullmatch(path.stem) is None:
            continue
        try:
            frame = HardFrame.model_validate_json(read_regular(path, MOST_RECORD))
            image = read_regular(path.with_suffix(".jpg"), MOST_IMAGE)
        except (OSError, ValueError) as error:
            reason = "its record is damaged" if isinstance(error, ValueError) else str(error)
            yield f"{path.name}: {reason}"
            continue
        if frame.file != path.with_suffix(".jpg").name or hashlib.sha256(image).hexdigest() != frame.sha256:
            yield f"{path.with_suffix('.jpg').name}: it is not the image that its record describes"
        else:
            yield frame, image
