"""GStreamer's RTSP server, run from a test or a benchmark."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

SYSTEM_PYTHON = "/usr/bin/python3"
PLUGINS = "gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
INSTALL = f"apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 {PLUGINS}"


class RtspServer:
    """GStreamer's RTSP server in its own process, which can be stopped and restarted at the same address."""

    def __init__(self, videos: Path | Mapping[str, Path], times: Path | None = None) -> None:
        """Serve a single video as /video, or each video under its name. `times`: see rtsp_server.py."""
        self.port, self._times = 0, times
        self._videos = videos if isinstance(videos, Mapping) else {"video": videos}
        self.start()

    @staticmethod
    def available() -> bool:
        bindings = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
        return subprocess.run([SYSTEM_PYTHON, "-c", bindings], capture_output=True, check=False).returncode == 0

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        mounts = [f"{name}={video}" for name, video in self._videos.items()]
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, script, str(self.port), *mounts, *(["--times", str(self._times)] if self._times else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def tell(self, *words: object) -> None:
        """Send a command of rtsp_server.py. Returns when it takes effect."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def url(self) -> str:
        return self.url_of("video")

    def url_of(self, name: str) -> str:
        return f"rtsp://127.0.0.1:{self.port}/{name}"
