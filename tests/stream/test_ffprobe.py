"""FFmpeg's own checker finds no fault in recordings, those of a killed process included."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sink_data import DETECTIONS, NAMES, gray_frame

from edgesparse.stream.recording import mp4
from edgesparse.stream.recording.h264 import h264_here
from edgesparse.stream.sinks.video import Video

FFPROBE = shutil.which("ffprobe")
pytestmark = [
    pytest.mark.ffprobe,
    pytest.mark.skipif(FFPROBE is None, reason="needs ffprobe: apt install ffmpeg"),
]
FRAMES = 45
MP4 = "h264" if h264_here()[0] else "vp8"
CODECS = {"out.mp4": MP4, "out.webm": "vp8", "out.avi": "mjpeg"}
CONTAINERS = {"out.mp4": "mp4", "out.webm": "webm", "out.avi": "avi"}

KILLED = """
import sys, time
from sink_data import NAMES, gray_frame
from edgesparse.runtime.detections import Detections
from edgesparse.stream.sinks.video import Video
sinks = [Video(path, NAMES, 10) for path in sys.argv[1:]]
for index in range(45):
    for sink in sinks:
        sink.write(gray_frame(index, level=5 * index), Detections.none())
print("written", flush=True)
time.sleep(60)
"""


def probe(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ffprobe says of a video, once it has decoded every frame without a message: container and stream."""
    shown = "format=format_name,duration:stream=codec_name,nb_read_frames,width,height,avg_frame_rate,pix_fmt"
    command = [str(FFPROBE), "-v", "error", "-count_frames", "-show_entries", shown, "-of", "json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), f"{path.name}: {done.stderr}"
    values = json.loads(done.stdout)
    (stream,) = values["streams"]
    return values["format"], stream


def boxes(path: Path) -> list[str]:
    """The kinds of the top-level boxes of an MP4 file, in order. They must cover it exactly."""
    data, at, kinds = path.read_bytes(), 0, list[str]()
    while at < len(data):
        kinds.append(data[at + 4 : at + 8].decode())
        size = int.from_bytes(data[at : at + 4], "big")
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        assert size >= 8
        at += size
    assert at == len(data)
    return kinds


@pytest.mark.parametrize("name", list(CODECS))
def test_a_recording_is_what_its_name_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with Video(path, NAMES, 10) as sink:
        for index in range(FRAMES):
            sink.write(gray_frame(index, level=5 * index), DETECTIONS)
    container, stream = probe(path)
    assert CONTAINERS[name] in container["format_name"].split(",") and stream["codec_name"] == CODECS[name]
    assert (stream["nb_read_frames"], stream["width"], stream["height"]) == (str(FRAMES), 100, 80)
    assert stream["avg_frame_rate"] == "10/1" and float(container["duration"]) == pytest.approx(FRAMES / 10, abs=0.11)
    if name == "out.mp4":
        assert boxes(path) == ["ftyp", "moov", "free", "mdat"], "the index comes first"
        assert stream["pix_fmt"].startswith("yuv"), "4:2:0, which every player decodes"


def test_an_index_that_does_not_fit_is_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "_RESERVED", 900)
    path = tmp_path / "out.mp4"
    with Video(path, NAMES, 10) as sink:
        for index in range(FRAMES):
            sink.write(gray_frame(index), DETECTIONS)
        assert boxes(path)[:4] == ["ftyp", "free", "moov", "moof"], "fragments, while it grows"
    assert boxes(path) == ["ftyp", "mdat", "moov"] and probe(path)[1]["nb_read_frames"] == str(FRAMES)


def test_recordings_of_a_killed_process_have_all_but_the_last_second(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in CODECS]
    command = [sys.executable, "-c", KILLED, *map(str, paths)]
    here = Path(__file__).parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    for path in paths:
        _, stream = probe(path)
        assert FRAMES - 10 <= int(stream["nb_read_frames"]) <= FRAMES, path.name
        assert stream["codec_name"] == CODECS[path.name]
