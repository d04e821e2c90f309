"""Recorded WebM plays in a real browser, also after the process that wrote it was killed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sink_data import NAMES, gray_frame

from edgesparse.runtime.detections import Detections
from edgesparse.stream.sinks.video import Video

CHROMIUM = shutil.which("chromium")
PAGE = """<p id="state">waiting</p><video id="video" muted src="{name}"></video><script>
const state = document.getElementById("state"), video = document.getElementById("video");
video.onerror = () => state.textContent = "error: " + video.error.message;
video.onloadeddata = () => state.textContent = `${{video.duration}} s, ${{video.videoWidth}}x${{video.videoHeight}}`;
</script>"""


@pytest.mark.chromium
@pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt install chromium")
@pytest.mark.parametrize("killed", [False, True])
def test_a_browser_plays_webm(tmp_path: Path, killed: bool) -> None:
    path = tmp_path / "out.webm"
    sink = Video(path, NAMES, 10)
    for index in range(35):
        sink.write(gray_frame(index, level=5 * index), Detections.none())
    shutil.copy(path, tmp_path / "killed.webm")  # what is on disk before it is closed
    sink.close()
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(name="killed.webm" if killed else "out.webm"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    (state,) = re.findall('<p id="state">(.*?)</p>', done.stdout)
    assert state == ("3 s, 100x80" if killed else "3.5 s, 100x80")
