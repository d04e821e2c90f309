"""A sink that shows annotated frames on the screen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.draw import Canvas

ESCAPE = 27
TRIAL_SECONDS = 30.0


class Window(Sink):
    """Annotated frames in a window, until q or Escape is pressed or the window is closed."""

    def __init__(self, title: str, names: Sequence[str]) -> None:
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SinkError("no window: there is no display here (DISPLAY is not set); write a video or JSON instead")
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
        with _usable_display():
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        self._title = title
        self._canvas = Canvas(names)
        self._open = True

    def write(self, frame: Frame, detections: Detections) -> None:
        cv2.imshow(self._title, self._canvas.annotated(frame, detections))
        key = cv2.waitKey(1) & 0xFF
        if key in (ord("q"), ESCAPE) or not self._is_visible():
            self.wants_stop = True

    def _is_visible(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # raised by OpenCV 5 once the last window is gone
            return False

    def close(self) -> None:
        if self._open:
            self._open = False
            cv2.destroyAllWindows()


@contextmanager
def _usable_display() -> Iterator[None]:
    """Open a window in another process first, since Qt aborts a process that cannot open one. It stays open inside the
    context: an X server resets itself when its last client disconnects. Raises SinkError.
    """
    trial = "import cv2; cv2.namedWindow('trial'); print('open', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", trial], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        limit = threading.Timer(TRIAL_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout is not None and process.stderr is not None
            if process.stdout.readline() != b"open\n":
                raise SinkError(f"no window: {_reason(process.stderr.read())}")
            yield
        finally:
            limit.cancel()
            process.kill()


def _reason(output: bytes) -> str:
    if b"not implemented" in output:
        return "this OpenCV cannot show windows; install opencv-python instead of opencv-python-headless"
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return f"display {display} can't be used from here; write a video or JSON instead"
