"""Cameras that fail on request: real video from a real RTSP server, with each frame's number in its pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "stream"))

from rtsp import RtspServer  # noqa: E402

BITS = 12
NUMBERS = 1 << BITS
STRIP = 0.08
FPS = 10


def numbered_video(source: Path, out: Path, size: tuple[int, int], frames: int) -> Path:
    """Encode the first frames of a real video, repeated, as H.264 at FPS with a key frame per second.

    Each frame has its number in a strip of black and white squares at the bottom. `size` is width and height in pixels.
    An existing file is reused.
    """
    if out.exists():
        return out
    width, height = size
    part = out.with_suffix(".part.mp4")
    video = f"rawvideoparse width={width} height={height} format=i420 framerate={FPS}/1"
    coder = f"openh264enc bitrate=500000 gop-size={FPS} complexity=low multi-thread=1"
    command = f"gst-launch-1.0 -q fdsrc ! {video} ! {coder} ! h264parse ! mp4mux ! filesink location={part}"
    with subprocess.Popen(command.split(), stdin=subprocess.PIPE) as coding:
        assert coding.stdin is not None
        capture = cv2.VideoCapture(str(source))
        for number in range(frames):
            ok, image = capture.read()
            if not ok:
                capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                ok, image = capture.read()
            small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            _write_number(small, number)
            coding.stdin.write(cv2.cvtColor(small, cv2.COLOR_BGR2YUV_I420).tobytes())
        coding.stdin.close()
    part.rename(out)
    return out


def _squares(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    height, width = image.shape[:2]
    top = round(height * (1 - STRIP))
    edges = [round(width * bit / BITS) for bit in range(BITS + 1)]
    return [image[top:, left:right] for left, right in pairwise(edges)]


def _write_number(image: NDArray[np.uint8], number: int) -> None:
    for bit, square in enumerate(_squares(image)):
        square[:] = 235 * (number >> bit & 1)


def read_number(image: NDArray[np.uint8]) -> int:
    """The number in an image, BGR uint8 [H, W, 3]."""
    number = 0
    for bit, square in enumerate(_squares(image)):
        height, width = square.shape[:2]
        inside = square[height // 3 : 2 * height // 3 + 1, width // 4 : 3 * width // 4, 1]
        number |= int(inside.mean() > 117) << bit
    return number


class Rig:
    """An RTSP server with the cameras cam-0, cam-1 ..., behind a network that can fail."""

    def __init__(self, videos: Mapping[str, Path], folder: Path) -> None:
        table = folder / "times.bin"
        table.write_bytes(bytes(8 * len(videos) * NUMBERS))
        self._sent: NDArray[np.int64] = np.memmap(table, np.int64, "r", shape=(len(videos), NUMBERS))
        self.server = RtspServer(videos, table)
        command = [sys.executable, str(ROOT / "benchmarks" / "tcp_proxy.py"), str(self.server.port), str(len(videos))]
        pipe = subprocess.PIPE
        self._proxy = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        assert self._proxy.stdout is not None
        self._ports = [int(port) for port in self._proxy.stdout.readline().split()]

    def url(self, number: int) -> str:
        """A camera's address, with a password that the server ignores and that must not appear anywhere."""
        return f"rtsp://user:secret@127.0.0.1:{self._ports[number]}/cam-{number}"

    def network(self, state: str, number: int) -> None:
        """Set the state of a camera's connection; see tcp_proxy.py."""
        assert self._proxy.stdin is not None
        print(state, number, file=self._proxy.stdin, flush=True)

    def sent_ns(self, number: int, image: NDArray[np.uint8]) -> int:
        """Time at which a camera sent this image, in nanoseconds on the monotonic clock."""
        return int(self._sent[number, read_number(image)])

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.kill()
        self._proxy.terminate()
        self._proxy.wait()
        for pipe in (self._proxy.stdin, self._proxy.stdout):
            assert pipe is not None
            pipe.close()
