"""Small videos and pictures, and a real RTSP server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesparse.stream.captures import prepare_opencv

SYSTEM_PYTHON = Path("/usr/bin/python3")
WIDTH, HEIGHT = 64, 48


@pytest.fixture(autouse=True)
def quiet_opencv() -> None:
    prepare_opencv()


def grey(level: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Write a video whose frame n is grey, of level 5 n; noise makes its frames long."""

    def make(name: str = "clip.avi", frames: int = 20, fps: float = 25.0, *, noise: bool = False) -> Path:
        path = tmp_path / name
        codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
        writer = cv2.VideoWriter(str(path), codec, fps, (WIDTH, HEIGHT))
        random = np.random.default_rng(0)
        for number in range(frames):
            image = random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) if noise else grey(5 * number)
            writer.write(image)
        writer.release()
        return path

    return make


class RtspServer:
    """GStreamer's RTSP server, in a process of its own, that can go and come back at the same address."""

    def __init__(self, video: Path) -> None:
        self.port, self._video = 0, video
        self.start()

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, script, self._video, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/video"


@pytest.fixture
def rtsp(real: Path) -> Iterator[RtspServer]:
    bindings = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if subprocess.run([SYSTEM_PYTHON, "-c", bindings], capture_output=True, check=False).returncode:
        pytest.skip("no GStreamer RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0")
    server = RtspServer(real / "video" / "bottle-detection.mp4")
    yield server
    server.kill()
