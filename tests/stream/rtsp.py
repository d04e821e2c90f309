"""GStreamer's RTSP server, run from a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

SYSTEM_PYTHON = "/usr/bin/python3"


class RtspServer:
    """GStreamer's RTSP server, in a process of its own, that can go and come back at the same address."""

    def __init__(self, video: Path) -> None:
        self.port, self._video = 0, video
        self.start()

    @staticmethod
    def available() -> bool:
        bindings = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
        return subprocess.run([SYSTEM_PYTHON, "-c", bindings], capture_output=True, check=False).returncode == 0

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
