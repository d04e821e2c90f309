"""Recorded videos: contents, times, sizes, and what remains if the process is killed."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest
from sink_data import DETECTIONS, NAMES, gray_frame, noise_frame, read_video

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream import pygobject
from edgesparse.stream.recording import avi, h264
from edgesparse.stream.sinks import recorder
from edgesparse.stream.sinks.images import Images
from edgesparse.stream.sinks.video import Video

NONE = Detections.none()
SUFFIXES = (".mp4", ".webm", ".avi")


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.webm", "OUT.MP4"])
def test_a_video_has_every_frame_with_its_boxes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with Video(path, NAMES, 12.5) as sink:
        for index in range(6):
            sink.write(gray_frame(index, level=40 * index), DETECTIONS if index == 0 else NONE)
    images, times = read_video(path)
    assert (len(images), images[0].shape) == (6, (80, 100, 3))
    assert times == pytest.approx([0.08 * index for index in range(6)], abs=0.001)
    assert images[0][20:60, 10:40].max() > 100, "boxes are drawn"
    assert [float(image.mean()) for image in images[1:]] == pytest.approx([40, 80, 120, 160, 200], abs=6)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5, abs=0.01)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_players_can_seek(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with Video(path, NAMES, 10) as sink:
        for index in range(50):
            sink.write(gray_frame(index, level=5 * index), NONE)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 50
    capture.set(cv2.CAP_PROP_POS_MSEC, 3000)
    assert float(capture.read()[1].mean()) == pytest.approx(150, abs=6)


KILLED = """
import itertools, sys, time
import numpy as np
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.video import Video
sink = Video(sys.argv[1], [], 20)
for index in itertools.count():
    sink.write(Frame(np.full((48, 64, 3), index % 256, np.uint8), 0, index, "x"), Detections.none())
    if index % 100 == 99:
        print(index, flush=True)
        time.sleep(0.05)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_video_can_be_played_up_to_its_last_second_after_kill_9(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        written = [int(process.stdout.readline()) for _ in range(3)][-1]
        process.send_signal(signal.SIGKILL)
    images, times = read_video(path)
    assert len(images) >= written - 20, "at most the last second, 20 frames, is missing"
    assert times == pytest.approx([index / 20 for index in range(len(images))], abs=0.001)
    assert [float(image.mean()) for image in images] == pytest.approx([n % 256 for n in range(len(images))], abs=6)


def test_a_slow_detector_loses_no_more_than_a_second_of_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four frames per second from a video with 25."""
    monkeypatch.setattr(recorder, "monotonic_ns", itertools.count(0, 250_000_000).__next__)
    path = tmp_path / "out.mp4"
    with Video(path, NAMES, 25) as sink:
        for index in range(10):
            sink.write(gray_frame(index), NONE)
        images, _ = read_video(path)
    assert len(images) >= 5 and len(read_video(path)[0]) == 10


def record(path: Path, seconds: Sequence[float], *, live: bool = False, fps: float = 25) -> list[float]:
    """Presentation times of a recording's frames that were captured at these times."""
    with Video(path, NAMES, fps) as sink:
        for index, second in enumerate(seconds):
            frame = gray_frame(index, level=index)
            frame.live, frame.time_ns = live, round(second * 1e9) + 77
            frame.position_ns = None if live else round(second * 1e9)
            sink.write(frame, NONE)
    return read_video(path)[1]


IRREGULAR = (0.0, 0.04, 0.08, 1.28, 1.32, 4.0, 4.04, 9.0)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("live", [False, True])
def test_frames_are_shown_when_they_were_taken(tmp_path: Path, suffix: str, live: bool) -> None:
    assert record(tmp_path / f"out{suffix}", IRREGULAR, live=live) == pytest.approx(IRREGULAR, abs=0.001)


def test_avi_holds_images_for_as_long_as_they_were_in_the_source(tmp_path: Path) -> None:
    assert record(tmp_path / "out.avi", IRREGULAR) == pytest.approx(IRREGULAR, abs=0.021)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_camera_that_announces_25_frames_per_second_and_sends_5_is_recorded_in_real_time(
    tmp_path: Path, suffix: str
) -> None:
    times = record(tmp_path / f"out{suffix}", [index / 5 for index in range(44)], live=True)
    assert len(times) == 44 and times[-1] == pytest.approx(8.6, abs=0.02)


def test_times_that_go_back_are_continued(tmp_path: Path) -> None:
    times = record(tmp_path / "out.mp4", [5.0, 5.04, 0.0, 0.04, 0.04])
    assert times == pytest.approx([0, 0.04, 0.08, 0.12, 0.16], abs=0.001)


def test_dropped_frames_without_times_leave_gaps(tmp_path: Path) -> None:
    with Video(tmp_path / "out.mp4", NAMES, 10) as sink:
        for index in (3, 4, 7, 30):
            sink.write(gray_frame(index), NONE)
    assert read_video(tmp_path / "out.mp4")[1] == pytest.approx([0, 0.1, 0.4, 2.7], abs=0.001)


def test_an_avi_continues_in_further_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after each gigabyte."""
    monkeypatch.setattr(avi, "RIFF_BYTES", 20_000)
    path = tmp_path / "out.avi"
    with Video(path, NAMES, 10) as sink:
        for index in range(100):
            sink.write(gray_frame(index, level=2 * index), NONE)
    assert path.read_bytes().count(b"AVIX") > 2
    images, _ = read_video(path)
    assert [float(image.mean()) for image in images] == pytest.approx([2 * n for n in range(100)], abs=3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_odd_size_is_recorded(tmp_path: Path, suffix: str) -> None:
    with Video(tmp_path / f"out{suffix}", NAMES) as sink:
        for index in range(3):
            sink.write(gray_frame(index, width=101, height=81, level=90), NONE)
    images, _ = read_video(tmp_path / f"out{suffix}")
    assert len(images) == 3 and images[0].mean() == pytest.approx(90, abs=6)


def test_an_mp4_without_an_encoder_for_h264_gets_vp8_and_that_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pygobject, "_SYSTEM_PACKAGES", "/nowhere")
    monkeypatch.setitem(sys.modules, "gi", None)
    assert record(tmp_path / "out.mp4", [0, 0.5, 3]) == pytest.approx([0, 0.5, 3])
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}/out.mp4 gets VP8, which Safari does not play in MP4 (name it .webm): ")
    assert line.count("sudo apt-get install gstreamer1.0-plugins-bad python3-gi") == 1
    assert line.count("has no bindings of GStreamer)") == 1


@pytest.mark.gstreamer
def test_an_encoder_that_fails_is_passed_over_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    if not h264.h264_here()[0]:
        pytest.skip(h264.h264_here()[1])
    monkeypatch.setattr(h264, "ELEMENTS", {"none": "nosuchelement name=encoder", **h264.ELEMENTS})
    encoder = h264.open_h264(64, 48)
    assert encoder.name in h264.ELEMENTS
    encoder.close()
    monkeypatch.setattr(h264, "ELEMENTS", {"none": "nosuchelement name=encoder", "small": h264.ELEMENTS["openh264enc"]})
    monkeypatch.setattr(h264, "LEAST_SIDE", 8)
    with pytest.raises(
        SinkError, match=r'no H.264 encoder works here \(no element "nosuchelement"; openh264enc failed: '
    ):
        h264.open_h264(8, 8)


def test_images_too_small_for_h264_get_vp8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Video(tmp_path / "out.mp4", NAMES) as sink:
        sink.write(gray_frame(width=12, height=10, level=90), NONE)
    assert read_video(tmp_path / "out.mp4")[0][0].shape == (10, 12, 3) and "12x10 is too small for H.264" in caplog.text


def test_the_frame_itself_is_not_drawn_on(tmp_path: Path) -> None:
    frame = gray_frame()
    with Video(tmp_path / "out.avi", NAMES) as video, Images(tmp_path, NAMES) as images:
        video.write(frame, DETECTIONS)
        images.write(frame, DETECTIONS)
    assert not frame.image.any()


def test_the_memory_that_frames_are_drawn_in_is_reused(tmp_path: Path) -> None:
    frame = gray_frame(width=640, height=480)
    with Video(tmp_path / "out.avi", NAMES) as sink:
        sink.write(frame, DETECTIONS)
        tracemalloc.start()
        try:
            for frame.index in range(1, 10):
                sink.write(frame, DETECTIONS)
            assert tracemalloc.get_traced_memory()[1] < frame.image.nbytes
        finally:
            tracemalloc.stop()


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Video(tmp_path / "out.avi", NAMES, 10) as sink:
        sink.write(gray_frame(0, level=200), NONE)
        for index in (1, 2):
            sink.write(gray_frame(index, width=50, height=80, level=200), NONE)
        sink.write(gray_frame(3, level=200), NONE)
    images, _ = read_video(tmp_path / "out.avi")
    assert [image.shape for image in images] == [(80, 100, 3)] * 4
    assert images[2][:, :20].mean() < 10 and images[2][:, 80:].mean() < 10 and images[2][:, 30:70].mean() > 190
    assert images[3].mean() > 190
    assert caplog.messages == [
        f"{tmp_path}/out.avi: frames changed from 100x80 to 50x80; fitted into the first size",
    ]


def test_a_video_without_frames_leaves_no_file_and_keeps_an_old_one(tmp_path: Path) -> None:
    with Video(tmp_path / "out.mp4", NAMES):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.mp4").write_text("old")
    with Video(tmp_path / "out.mp4", NAMES, force=True):
        pass
    assert (tmp_path / "out.mp4").read_text() == "old"


def test_an_unknown_kind_of_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"out\.mpeg: a video's name ends in one of \.mp4, \.webm, \.avi"):
        Video(tmp_path / "out.mpeg", NAMES)


@pytest.mark.root
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_recording_stops_before_the_disk_is_full(nearly_full_disk: Path, suffix: str) -> None:
    path = nearly_full_disk / f"a{suffix}"
    with pytest.raises(SinkError, match="No space left on device"), Video(path, NAMES) as sink:
        for index in range(1000):
            sink.write(noise_frame(index), NONE)
    images, _ = read_video(path)
    assert images


@pytest.mark.root
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full_nevertheless_leaves_a_video_that_plays(
    nearly_full_disk: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(recorder, "SPARE_BYTES", 0)
    monkeypatch.setattr(recorder, "monotonic_ns", lambda: 0)  # a slow encoder's segments hold fewer images
    path = nearly_full_disk / f"a{suffix}"
    sink = Video(path, NAMES, 10)
    for index in range(21):
        sink.write(noise_frame(index), NONE)
    with (nearly_full_disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(SinkError, match="No space left on device"):
        for index in range(21, 1000):
            sink.write(noise_frame(index), NONE)
    sink.close()
    images, _ = read_video(path)
    assert len(images) == 20, "the segments from before"
