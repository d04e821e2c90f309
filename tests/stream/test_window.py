"""The window, on its own display. Each program is a process, since Qt aborts one that loses its display."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesparse.errors import SinkError
from edgesparse.stream.sinks import window
from edgesparse.stream.sinks.window import Window

PROGRAM = """
import cv2, numpy as np
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.window import Window
frame = Frame(np.full((120, 160, 3), 90, np.uint8), 0, 0, "x")
with Window("edgesparse", []) as window:
    for _ in range(5):
        window.write(frame, Detections.none())
    print(window.wants_stop)
    wait = cv2.waitKey
    cv2.waitKey = lambda milliseconds: {act}
    window.write(frame, Detections.none())
    print(window.wants_stop)
"""


@pytest.fixture
def display() -> Iterator[str]:
    xvfb = shutil.which("Xvfb")
    if xvfb is None:
        pytest.skip("no X display: apt-get install xvfb")
    command = [xvfb, "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        yield f":{int(server.stdout.readline())}"
        server.terminate()


@pytest.mark.display
@pytest.mark.parametrize(
    ("act", "stops"),
    [
        pytest.param("ord('q')", True, id="q"),
        pytest.param("27", True, id="Escape"),
        pytest.param("ord('x')", False, id="another key"),
        pytest.param("wait(milliseconds)", False, id="no key"),
        pytest.param("cv2.destroyAllWindows() or -1", True, id="cross"),
    ],
)
def test_a_window_shows_frames_until_it_is_closed(display: str, act: str, stops: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(act=act)],
        env={**os.environ, "DISPLAY": display},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"False\n{stops}\n", "")


def test_a_missing_display_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match=r"^no window: there is no display here") as caught:
        Window("edgesparse", [])
    assert caught.value.exit_code == 2


def test_a_display_that_is_gone_is_reported_without_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":4711")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match=r"^no window: display :4711 can't be used from here"):
        Window("edgesparse", [])


def test_an_opencv_without_windows_is_reported_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    (tmp_path / "cv2.py").write_text("def namedWindow(name): raise RuntimeError('The function is not implemented.')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        SinkError, match=r"^no window: this OpenCV cannot show windows; install opencv-python instead of"
    ):
        Window("edgesparse", [])


def test_a_display_that_does_not_answer_is_not_awaited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":4711")
    monkeypatch.setattr(window, "TRIAL_SECONDS", 0.2)
    with pytest.raises(SinkError, match=r"^no window: display :4711 can't be used from here"):
        Window("edgesparse", [])
