"""Opens sources by their names on the command line, in a recipe and in the API.

A new kind of source is one function and one line in KINDS.
"""

from __future__ import annotations

import functools
import glob
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import cv2

from edgesparse.config import InputSpec
from edgesparse.errors import ConfigError, SourceError
from edgesparse.files import FileState, file_states
from edgesparse.redaction import redact, remember_address
from edgesparse.runtime.images import ImageBatches, evenly, image_files, is_image, natural_order
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.capture import Opener, read_seconds
from edgesparse.stream.sources.gstreamer import open_csi
from edgesparse.stream.sources.image_files import ImageFiles
from edgesparse.stream.sources.isolated import IsolatedOpener
from edgesparse.stream.sources.live import LiveSource
from edgesparse.stream.sources.network import Address, Transport, check_url
from edgesparse.stream.sources.v4l2 import Size, open_camera
from edgesparse.stream.sources.video_file import VideoFile, open_video
from edgesparse.wording import printable

if TYPE_CHECKING:
    from typing_extensions import Unpack

APART = 10
"""Frames from one image of a video to the next, at most, where a number of its frames is used."""


class SourceArguments(TypedDict, total=False):
    """The keyword arguments of `open_source`."""

    size: Size | None
    fps: float | None
    transport: Transport
    name: str | None
    patient: bool
    frozen: float


@dataclass(frozen=True)
class SourceOptions:
    """How to open a source."""

    size: Size | None = None
    """Width and height to request from a camera."""
    fps: float | None = None
    """Frames per second to request from a camera, or snapshots per second from an address of single images."""
    transport: Transport = "tcp"
    """RTSP transport."""
    name: str | None = None
    """Name in messages and outputs."""
    patient: bool = False
    """Wait for a camera that is not available, instead of raising CameraUnavailable."""
    frozen: float = 0.0
    """Seconds after which an unchanged image of a live source counts as frozen; 0: never."""

    def live(self, name: str, opener: Opener) -> LiveSource:
        return LiveSource(self.name or name, opener, patient=self.patient, frozen=self.frozen)

    def isolated(self, name: str, opener: Opener) -> IsolatedOpener:
        return IsolatedOpener(opener, self.name or name, read_seconds(self.fps))


def open_source(spec: str | int | Path, **arguments: Unpack[SourceArguments]) -> Source:
    """Open a source of frames. The keyword arguments are the fields of SourceOptions.

    `spec` is a camera's number (0) or device (/dev/video0), csi://0, the address of a network camera (rtsp://,
    http://...), a video, an image, a folder or glob of images, or `demo`. Raises SourceError if that cannot be opened,
    and CameraUnavailable, a SourceError, for a camera that does not answer.
    """
    text, options = str(spec), SourceOptions(**arguments)
    remember_address(text)
    if "\0" in text:
        raise SourceError("no source: its name contains a NUL byte")
    if (kind := _kind(text)) is None:
        return _open_files(text, options)
    if printable(text) != text:
        raise SourceError(f"cannot open {printable(redact(text))}: an address or device is UTF-8 text")
    open_kind, match = kind
    return open_kind(match, options)


def check_source(spec: str) -> None:
    """Raise SourceError if `spec` is no source. Files are opened; of an address, only its text is checked."""
    kind = _kind(spec)
    if kind is None:
        open_source(spec).close()
    elif kind[0] is _open_address:
        check_url(spec)


def source_kind(spec: str) -> str:
    """Return `device`, `demo`, `csi`, the scheme of an address, or `file`: what `open_source` would open."""
    kind = _kind(spec)
    if kind is None:
        return "file"
    return _LOCAL.get(kind[0]) or spec.partition("://")[0].lower()


def _kind(spec: str) -> tuple[Callable[[re.Match[str], SourceOptions], Source], re.Match[str]] | None:
    """What opens `spec`, and the match that it takes; None for files."""
    matches = ((open_kind, re.fullmatch(pattern, spec, re.DOTALL)) for pattern, open_kind in KINDS)
    return next(((open_kind, match) for open_kind, match in matches if match), None)


def _open_number(match: re.Match[str], options: SourceOptions) -> Source:
    if match[0].startswith("-"):
        raise SourceError(f"no camera {match[0]}: cameras are numbered from 0")
    return _open_v4l2(Path(f"/dev/video{int(match[0])}"), options)


def _open_device(match: re.Match[str], options: SourceOptions) -> Source:
    return _open_v4l2(Path(match[0]), options)


def _open_v4l2(device: Path, options: SourceOptions) -> Source:
    return options.live(str(device), functools.partial(open_camera, device, options.size, options.fps))


def _open_demo(match: re.Match[str], options: SourceOptions) -> Source:
    seed = int(match[1] or 0)
    from edgesparse.stream.sources.demo import FPS, SIZE, DemoCapture  # it draws its parts when it is imported

    opener = functools.partial(DemoCapture, seed, options.size or SIZE, options.fps or FPS)
    return LiveSource(options.name or f"demo:{seed}", opener)


def _open_csi(match: re.Match[str], options: SourceOptions) -> Source:
    if not match[1].isdecimal():
        raise SourceError(f"csi://{match[1]} names no camera: write csi://0 for the first")
    opener = functools.partial(open_csi, int(match[1]), options.size, options.fps)
    return options.live(match[0], options.isolated(match[0], opener))


def _open_address(match: re.Match[str], options: SourceOptions) -> Source:
    url = match[0]
    check_url(url)
    name, address = options.name or redact(url), Address(url, options.fps, options.transport)
    isolated = options.isolated(name, address)
    if options.patient or not url.lower().startswith("http"):
        return options.live(name, isolated)
    capture = isolated()
    if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        capture.release()
        return VideoFile(name, address)
    return LiveSource(name, isolated, capture, frozen=options.frozen)


KINDS: list[tuple[str, Callable[[re.Match[str], SourceOptions], Source]]] = [
    (r"-?\d+", _open_number),
    (r"/dev/(?!shm/).+", _open_device),  # /dev/shm holds files, in memory
    (r"demo(?::(\d+))?", _open_demo),
    (r"(?i:csi)://(.*)", _open_csi),
    (r"[^/]*://.*", _open_address),
]
"""Functions that open a source, by a regular expression for its full name. Everything else is a file."""
_LOCAL: dict[Callable[[re.Match[str], SourceOptions], Source], str] = {
    _open_number: "device",
    _open_device: "device",
    _open_demo: "demo",
}


def _open_files(text: str, options: SourceOptions) -> Source:
    if not text:
        raise SourceError("no source: name a camera, a video, an image, a folder, an address or demo")
    try:
        path = Path(text).expanduser()
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError) as error:  # a name that is too long, or a user that does not exist
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"no source {printable(text[:99])}: {reason}") from None
    if path.is_dir():
        return ImageFiles(options.name or printable(text), _images_in(path))
    if not path.exists() and any(sign in text for sign in "*?["):
        files = _matches(str(path))
        if is_image(files[0]):
            return ImageFiles(options.name or printable(text), files)
        path = files[0]
    name = options.name or printable(path)
    if not path.is_file():
        reason = "neither a file nor a folder" if path.exists() else "no such file, folder or camera"
        raise SourceError(f"no source {redact(printable(path))}: {reason}")
    if path.stat().st_size == 0:
        raise SourceError(f"cannot read {printable(path)}: the file is empty")
    if is_image(path):
        return ImageFiles(name, [path])
    return VideoFile(name, functools.partial(open_video, path))


def _images_in(folder: Path) -> list[Path]:
    try:
        return image_files(folder)
    except ConfigError as error:
        raise SourceError(str(error)) from None


def _matches(pattern: str) -> list[Path]:
    """Return what a glob matches: images in natural order, or a single other file. Raises SourceError."""
    files = [Path(match) for match in glob.iglob(pattern, recursive=True)]  # noqa: PTH207 - also absolute ones
    images = sorted(filter(is_image, files), key=natural_order)
    if images:
        return images
    if len(files) == 1:
        return files
    raise SourceError(f"no images match {printable(pattern)}: found {len(files)} files")


def image_batches(source: str, spec: InputSpec, count: int) -> ImageBatches:
    """Return at most `count` images of a folder, glob or video as model inputs, for calibration: evenly spaced ones, of
    a video at most APART frames apart, since all of the frames before the last one are decoded.

    Raises SourceError if `source` is a camera or holds no images. Iterating raises ImageError for an image that cannot
    be read: calibration must not silently lose images."""

    def images() -> Iterator[Image]:
        with open_source(source) as frames:
            step = 1
            if isinstance(frames, ImageFiles):
                frames.paths, frames.strict = evenly(frames.paths, count), True
            else:
                step = max(1, min(APART, (frames.total or 0) // count))
            for frame in islice(frames, 0, step * count, step):
                yield frame.image

    with open_source(source) as frames:
        if frames.live:
            raise SourceError(f"{frames.name} is a camera: needed a folder, glob or video of images")
    return ImageBatches(images, spec)


def image_states(source: str, count: int) -> list[FileState]:
    """Return the states of the files that `image_batches` reads: of images, or of a video. Raises SourceError."""
    with open_source(source) as frames:
        return file_states(evenly(frames.paths, count) if isinstance(frames, ImageFiles) else [Path(source)])
