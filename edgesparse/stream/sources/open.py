"""What a source's name on the command line means: cameras, network streams, files, images, the demo."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import cv2

from edgesparse.config import InputSpec
from edgesparse.demo.scene import Scene
from edgesparse.errors import ConfigError, SourceError
from edgesparse.runtime.images import ImageBatches, image_files, is_image
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.captures import Capture, open_camera, open_url, open_video, read_seconds
from edgesparse.stream.sources.files import VideoFile, matches
from edgesparse.stream.sources.gstreamer import NoGStreamer, has_video_decoder, open_csi, open_rtsp
from edgesparse.stream.sources.image_files import ImageFiles
from edgesparse.stream.sources.live import Live
from edgesparse.stream.sources.process import Apart
from edgesparse.stream.sources.v4l2 import Size
from edgesparse.wording import printable, redact

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
DEMO_FPS = 30.0


def open_source(
    spec: str | int | Path,
    *,
    size: Size | None = None,
    fps: float | None = None,
    name: str | None = None,
    patient: bool = False,
    frozen: float = 0.0,
) -> Source:
    """Open a camera number, device, address, video, image, folder, glob or `demo`.

    `size` (width, height) and `fps` are what a camera is asked for, `name` what messages and outputs call it. With
    `patient` a camera that isn't there is waited for; without, it is CameraUnavailable. `frozen`: seconds after which
    the same image of a live source is an old one; 0: never. Raises SourceError."""
    text = str(spec)
    scheme, separator, rest = text.partition("://")
    how = functools.partial(Live, patient=patient, frozen=frozen)
    if re.fullmatch(r"-?\d+", text):
        return _camera(_numbered(int(text)), size, fps, name, how)
    if text.startswith("/dev/"):
        return _camera(Path(text), size, fps, name, how)
    if re.fullmatch(r"demo(:\d+)?", text):
        seed = int(text[5:] or 0)
        return Live(name or f"demo:{seed}", functools.partial(DemoCapture, seed, size or (640, 480), fps or DEMO_FPS))
    if scheme.lower() == "csi" and separator:
        return _csi(rest, size, fps, name, how)
    if separator:
        return _stream(text, fps, name, how, patient)
    return _files(text, name)


def image_batches(source: str, spec: InputSpec, count: int) -> ImageBatches:
    """The first `count` images of a folder, glob or video as a network takes them, for calibration.

    Raises SourceError if `source` is a camera or holds no images; iterating raises ImageError for an image that cannot
    be read, since calibration and labels must not lose images unnoticed."""

    def images() -> Iterator[Image]:
        with open_source(source) as frames:
            if isinstance(frames, ImageFiles):
                frames.strict = True
            for frame in islice(frames, count):
                yield frame.image

    with open_source(source) as frames:
        if frames.live:
            raise SourceError(f"{frames.name} is a camera: needed a folder, glob or video of images")
    return ImageBatches(images, spec)


def _numbered(number: int) -> Path:
    if number < 0:
        raise SourceError(f"no camera {number}: cameras are numbered from 0")
    return Path(f"/dev/video{number}")


def _camera(device: Path, size: Size | None, fps: float | None, name: str | None, how: Callable[..., Live]) -> Source:
    return how(name or str(device), functools.partial(open_camera, device, size, fps))


def _csi(sensor: str, size: Size | None, fps: float | None, name: str | None, how: Callable[..., Live]) -> Source:
    if not sensor.isdecimal():
        raise SourceError(f"csi://{sensor} names no camera: write csi://0 for the first")
    shown = name or f"csi://{sensor}"
    return how(shown, Apart(functools.partial(open_csi, int(sensor), size, fps), shown, read_seconds(fps)))


def _stream(url: str, fps: float | None, name: str | None, how: Callable[..., Live], patient: bool) -> Source:
    scheme, shown = url.partition("://")[0].lower(), redact(url)
    if scheme not in SCHEMES:
        raise SourceError(f"cannot open {shown}: an address starts with one of {', '.join(SCHEMES)} or csi")
    opener = functools.partial(_open_address, url, fps)
    apart = Apart(opener, name or shown, read_seconds(fps))
    if patient or not scheme.startswith("http"):
        return how(name or shown, apart)
    capture = apart()
    if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        capture.release()
        return VideoFile(name or shown, opener)
    return how(name or shown, apart, capture)


def _open_address(url: str, fps: float | None) -> Capture:
    """RTSP by a Jetson's decoder where there is one, all else, and where GStreamer is missing, by FFmpeg."""
    if url.lower().startswith("rtsp") and has_video_decoder():
        with suppress(NoGStreamer):
            return open_rtsp(url, fps)
    return open_url(url, fps)


def _files(text: str, name: str | None) -> Source:
    path = Path(text).expanduser()
    if not text:
        raise SourceError("no source: name a camera, a video, an image, a folder, an address or demo")
    if path.is_dir():
        return ImageFiles(name or printable(text), _images_in(path))
    if not path.exists() and any(sign in text for sign in "*?["):
        found = matches(str(path))
        if is_image(found[0]):
            return ImageFiles(name or printable(text), found)
        path = found[0]
    return _file(path, name)


def _images_in(folder: Path) -> list[Path]:
    try:
        return image_files(folder)
    except ConfigError as error:
        raise SourceError(str(error)) from None


def _file(path: Path, name: str | None) -> Source:
    if not path.is_file():
        raise SourceError(f"no source {path}: no such file, folder or camera")
    if path.stat().st_size == 0:
        raise SourceError(f"cannot read {path}: the file is empty")
    if is_image(path):
        return ImageFiles(name or printable(path), [path])
    return VideoFile(name or printable(path), functools.partial(open_video, path))


class DemoCapture:
    """The scene that draws itself, as a camera."""

    def __init__(self, seed: int, size: Size, fps: float) -> None:
        self._scene = Scene(seed, height=size[1], width=size[0])
        self._fps = fps
        self._due = time.monotonic()

    def grab(self) -> bool:
        self._due = max(self._due + 1 / self._fps, time.monotonic() - 1.0)
        time.sleep(max(0.0, self._due - time.monotonic()))
        return True

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        return True, self._scene.render(out=image)[0]

    def get(self, prop: int, /) -> float:
        return self._fps if prop == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass
