"""Small videos, and a real RTSP server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hand_camera import Camera
from rtsp import INSTALL, RtspServer

from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.stream.sources import capture, capture_worker, live
from edgesparse.stream.sources.live import LiveSource

WIDTH, HEIGHT = 64, 48


@pytest.fixture(autouse=True)
def quiet_opencv() -> None:
    prepare_opencv()


def gray(level: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Write a video whose frame n is gray with level 5 n; noise makes its frames large."""

    def make(name: str = "clip.avi", frames: int = 20, fps: float = 25.0, *, noise: bool = False) -> Path:
        path = tmp_path / name
        codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
        writer = cv2.VideoWriter(str(path), codec, fps, (WIDTH, HEIGHT))
        random = np.random.default_rng(0)
        for number in range(frames):
            image = random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) if noise else gray(5 * number)
            writer.write(image)
        writer.release()
        return path

    return make


@pytest.fixture
def rtsp_server(real: Path) -> Iterator[RtspServer]:
    if not RtspServer.available():
        pytest.skip(f"no GStreamer RTSP server: {INSTALL}")
    server = RtspServer(real / "video" / "bottle-detection.mp4")
    yield server
    server.kill()


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    yield camera
    for _ in range(20):
        camera.frames.put(False)


@pytest.fixture
def source(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveSource]:
    monkeypatch.setattr(capture_worker, "PAUSE_FIRST", 0.01)
    monkeypatch.setattr(capture_worker, "PAUSE_LONGEST", 0.02)
    monkeypatch.setattr(live, "CLOSE_SECONDS", 0.1)
    with LiveSource("camera", camera.open) as source:
        yield source


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a second without a frame counts as a stall."""
    monkeypatch.setattr(capture, "READ_SECONDS", 0.1)
    monkeypatch.setattr(live, "FRAME_SLACK", 0.1)


@pytest.fixture
def nearly_full_disk(mount_disk: Callable[[int], Path]) -> Path:
    """A disk with little more free space than a video sink reserves."""
    return mount_disk(17)
