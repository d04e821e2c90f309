"""Sinks for people: frames with boxes and labels, as a video, as images, in a window."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.stream.frames import Frame, Image, Sink
from edgesparse.stream.sinks.draw import draw
from edgesparse.stream.sinks.writing import claim, failing, stem, writable_folder, write_whole

log = logging.getLogger("edgesparse.stream")

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
MOST_REPEATS = 4
SPARE_BYTES = 16 << 20
ESCAPE = 27
TRIAL_SECONDS = 30.0


class _Canvas:
    """A copy of the frame to draw on, in memory that is used again."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._image: Image = np.empty((0, 0, 3), np.uint8)

    def annotated(self, frame: Frame, detections: Detections) -> Image:
        if self._image.shape != frame.image.shape:
            self._image = np.empty_like(frame.image)
        np.copyto(self._image, frame.image)
        draw(self._image, detections, self._names)
        return self._image


class Video(Sink):
    """An annotated video, .mp4 (MPEG-4) or .avi (Motion JPEG), that appears whole, on close.

    A frame is written again for those that were dropped before it, so a live source's recording keeps its pace; four
    times at most, lest encoding drops ever more. Frames of another size than the first are fitted into that."""

    def __init__(self, path: str | Path, names: Sequence[str], fps: float = 0.0, *, force: bool = False) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in CODECS:
            raise SinkError(f"cannot write {path}: a video's name ends in one of {', '.join(CODECS)}")
        self._fps = fps or 30.0
        self._canvas = _Canvas(names)
        self._part = claim(self._path, force)
        self._writer: cv2.VideoWriter | None = None
        self._fitted: Image = np.empty((0, 0, 3), np.uint8)
        self._said = False
        self._last = 0

    def write(self, frame: Frame, detections: Detections) -> None:
        image = self._canvas.annotated(frame, detections)
        if self._writer is None:
            self._open(image)
            self._last = frame.index - 1
        assert self._writer is not None
        if image.shape != self._fitted.shape:
            self._fit(image)
            image = self._fitted
        if shutil.disk_usage(self._path.parent).free < SPARE_BYTES:
            raise SinkError(f"cannot write {self._path}: {os.strerror(errno.ENOSPC)}")
        for _ in range(max(1, min(frame.index - self._last, MOST_REPEATS))):
            self._writer.write(image)
        self._last = frame.index

    def _open(self, image: Image) -> None:
        prepare_opencv()
        height, width = image.shape[:2]
        codec = cv2.VideoWriter.fourcc(*CODECS[self._path.suffix.lower()])
        self._writer = cv2.VideoWriter(str(self._part), codec, self._fps, (width, height))
        self._fitted = np.zeros_like(image)
        if not self._writer.isOpened():
            raise SinkError(f"cannot write {self._path}: OpenCV has no encoder for {width}x{height} here")

    def _fit(self, image: Image) -> None:
        """Letterbox into the first frame's size."""
        (height, width), (rows, columns) = self._fitted.shape[:2], image.shape[:2]
        if not self._said:
            self._said = True
            log.warning(
                "%s: frames changed from %dx%d to %dx%d; fitted into the first",
                self._path,
                width,
                height,
                columns,
                rows,
            )
        scale = min(width / columns, height / rows)
        fit_width, fit_height = max(1, round(columns * scale)), max(1, round(rows * scale))
        left, top = (width - fit_width) // 2, (height - fit_height) // 2
        self._fitted[...] = 0
        cv2.resize(
            image,
            (fit_width, fit_height),
            dst=self._fitted[top : top + fit_height, left : left + fit_width],
            interpolation=cv2.INTER_AREA,
        )

    def close(self) -> None:
        writer, self._writer = self._writer, None
        try:
            if writer is not None and writer.isOpened():
                writer.release()
                with failing(self._path):
                    self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)


class Images(Sink):
    """An annotated image a frame, into a folder: PNG where the source's image is one, else JPEG."""

    def __init__(self, folder: str | Path, names: Sequence[str], *, force: bool = False) -> None:
        self._folder = writable_folder(folder)
        self._canvas = _Canvas(names)
        self._force = force

    def write(self, frame: Frame, detections: Detections) -> None:
        ending = ".png" if frame.name.lower().endswith(".png") else ".jpg"
        ok, data = cv2.imencode(ending, self._canvas.annotated(frame, detections))
        if not ok:
            raise SinkError(f"cannot encode {frame.name} as {ending}")
        write_whole(self._folder / f"{stem(frame)}{ending}", data.tobytes(), self._force)

    def close(self) -> None:
        pass


class Window(Sink):
    """Annotated frames on the screen, until q, Escape or the window's own cross."""

    def __init__(self, title: str, names: Sequence[str]) -> None:
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SinkError("no window: there is no display here (DISPLAY is not set); write a video or JSON instead")
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
        with _usable_display():
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        self._title = title
        self._canvas = _Canvas(names)
        self._open = True

    def write(self, frame: Frame, detections: Detections) -> None:
        cv2.imshow(self._title, self._canvas.annotated(frame, detections))
        key = cv2.waitKey(1) & 0xFF
        if key in (ord("q"), ESCAPE) or not self._is_visible():
            self.wants_stop = True

    def _is_visible(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # what OpenCV 5 answers once the last window is gone
            return False

    def close(self) -> None:
        if self._open:
            self._open = False
            cv2.destroyAllWindows()


@contextmanager
def _usable_display() -> Iterator[None]:
    """Open a window in a process of its own first: where that can't be, Qt ends the process that tries. It stays open
    meanwhile: an X server resets itself when its last client goes. Raises SinkError."""
    trial = "import cv2; cv2.namedWindow('trial'); print('open', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", trial], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        limit = threading.Timer(TRIAL_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout is not None and process.stderr is not None
            if process.stdout.readline() != b"open\n":
                raise SinkError(f"no window: {_why_not(process.stderr.read())}")
            yield
        finally:
            limit.cancel()
            process.kill()


def _why_not(said: bytes) -> str:
    if b"not implemented" in said:
        return "this OpenCV has none; install opencv-python in place of the headless one"
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return f"display {display} can't be used from here; write a video or JSON instead"
