"""Every recording except Motion JPEG plays in a real browser, even if the process that wrote it was killed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sink_data import NAMES, gray_frame

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.recording.h264 import h264_here
from edgesparse.stream.sinks import recorder
from edgesparse.stream.sinks.video import Video

CHROMIUM = shutil.which("chromium")
PAGE = """<p id="state"></p><script>
const left = new Set(%s), states = {};
for (const name of left) {
    const video = document.createElement("video");
    const done = state => {
        states[name] = state;
        document.getElementById("state").textContent = JSON.stringify(states);
    };
    video.muted = true;
    video.onerror = () => done(video.error.message);
    video.onloadeddata = () => video.currentTime = 2.05;
    const canvas = document.createElement("canvas").getContext("2d");
    video.onseeked = () => {
        canvas.drawImage(video, 0, 0);
        const level = canvas.getImageData(50, 40, 1, 1).data[1];
        if (level === 0) return setTimeout(video.onseeked, 50);  // on a busy machine the frame comes later
        done([video.duration, video.videoWidth, video.videoHeight, level]);
    };
    video.src = name;
    document.body.append(video);
}
</script>"""


def record(path: Path) -> None:
    """3.5 seconds of gray that gets lighter, as NAME; killed-NAME is what is on disk before the file is closed."""
    with Video(path, NAMES, 10) as sink:
        for index in range(35):
            sink.write(gray_frame(index, level=5 * index), Detections.none())
        shutil.copy(path, path.with_name(f"killed-{path.name}"))


@pytest.mark.chromium
@pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt install chromium")
def test_a_browser_plays_and_seeks_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "out.webm")
    record(tmp_path / "out.mp4")  # with H.264 if this machine has it

    def missing(*_: object) -> None:
        raise SinkError("no H.264 encoder works here")

    monkeypatch.setattr(recorder, "open_h264", missing)
    record(tmp_path / "vp8.mp4")
    names = sorted(path.name for path in tmp_path.iterdir())
    page = tmp_path / "page.html"
    page.write_text(PAGE % json.dumps(names))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=8000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    (state,) = re.findall('<p id="state">(.*?)</p>', done.stdout)
    states = json.loads(state)
    assert sorted(states) == names and len(names) == 6
    for name, (seconds, width, height, level) in states.items():
        assert (seconds, width, height) == (3 if name.startswith("killed") else 3.5, 100, 80), name
        assert level == pytest.approx(100, abs=6), name
    assert (b"avc1" in (tmp_path / "out.mp4").read_bytes()) == bool(h264_here()[0])
