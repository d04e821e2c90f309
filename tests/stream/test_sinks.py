"""What is written, and what is said where it can't be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame, Sink
from edgesparse.stream.sinks.text import CocoJson, Images, JsonLines, Video, YoloTxt

NAMES = ["person", "bicycle"]
FOUND = Detections(
    np.array([[10.04, 20.06, 40, 60], [0, 0, 100, 50]], np.float32),
    np.array([0.87654, 0.5], np.float32),
    np.array([1, 7], np.int64),
)


def frame(index: int = 0, name: str = "clip.mp4", width: int = 100, height: int = 80, level: int = 0) -> Frame:
    return Frame(np.full((height, width, 3), level, np.uint8), time.monotonic_ns(), index, name)


# JSON lines


def test_a_json_line_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "out" / "found.jsonl"
    with JsonLines(path, NAMES) as sink:
        first = frame(3, "rtsp://host/x")
        sink.write(first, FOUND)
        on_disk = path.read_text()
        sink.write(frame(4), Detections.none())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert json.loads(on_disk) == lines[0], "a line is there as soon as it is written"
    captured = datetime.fromisoformat(lines[0].pop("time").replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - captured).total_seconds()) < 60
    assert lines[0] == {
        "source": "rtsp://host/x",
        "frame": 3,
        "monotonic_ns": first.time_ns,
        "width": 100,
        "height": 80,
        "detections": [
            {"box": [10.0, 20.1, 40.0, 60.0], "confidence": 0.8765, "class_id": 1, "class": "bicycle"},
            {"box": [0.0, 0.0, 100.0, 50.0], "confidence": 0.5, "class_id": 7, "class": "7"},
        ],
    }
    assert lines[1]["detections"] == []


def test_the_time_is_the_capture_s(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "a.jsonl", NAMES) as sink:
        now, old = frame(), frame()
        old.time_ns -= 3600 * 10**9
        sink.write(now, FOUND)
        sink.write(old, FOUND)
    stamps = [
        datetime.fromisoformat(json.loads(line)["time"].replace("Z", "+00:00"))
        for line in (tmp_path / "a.jsonl").read_text().splitlines()
    ]
    assert (stamps[0] - stamps[1]).total_seconds() == pytest.approx(3600, abs=5)


def test_json_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines("-", NAMES) as sink:
        sink.write(frame(), FOUND)
    assert json.loads(capsys.readouterr().out)["frame"] == 0


def test_a_reader_that_goes_ends_it_quietly() -> None:
    program = """
import time, numpy as np
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.text import JsonLines
frame = Frame(np.zeros((4, 4, 3), np.uint8), time.monotonic_ns(), 0, "x")
with JsonLines("-", []) as sink:
    while not sink.wants_stop:
        sink.write(frame, Detections.none())
    sink.write(frame, Detections.none())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_a_full_disk_is_one_line() -> None:
    sink = JsonLines("/dev/full", NAMES)
    with pytest.raises(SinkError, match=r"^cannot write /dev/full: No space left on device$") as caught:
        sink.write(frame(), FOUND)
    assert caught.value.exit_code == 2
    sink.close()


# YOLO and COCO


def test_yolo_lines_are_in_parts_of_the_frame(tmp_path: Path) -> None:
    found = Detections(np.array([[10, 20, 30, 60]], np.float32), np.array([0.5], np.float32), np.array([1], np.int64))
    with YoloTxt(tmp_path / "labels", NAMES) as sink:
        sink.write(frame(0, "000000001.jpg"), found)
        sink.write(frame(1, "left/b.png"), Detections.none())
        sink.write(frame(12, "videos/clip one.mp4"), found)
        sink.write(frame(7, "rtsp://host:554/x"), found)
        sink.write(frame(8, "/dev/video0"), found)
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    line = "1 0.200000 0.500000 0.200000 0.500000 0.5000\n"
    assert written == {
        "labels/000000001.txt": line,
        "labels/left/b.txt": "",
        "labels/clip_one_000012.txt": line,
        "labels/rtsp_host_554_x_000007.txt": line,
        "labels/video0_000008.txt": line,
    }


def test_coco_results_are_what_pycocotools_reads(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with CocoJson(path, NAMES) as sink:
        sink.write(frame(0, "000000139.jpg"), FOUND)
        sink.write(frame(1, "000000285.jpg"), Detections.none())
        sink.write(frame(2, "street.jpg"), FOUND)
        assert not path.exists()
    results = json.loads(path.read_text())
    assert results[0] == {
        "image_id": 139,
        "file_name": "000000139.jpg",
        "category_id": 1,
        "bbox": [10.04, 20.06, 29.96, 39.94],
        "score": 0.87654,
    }
    assert [result["image_id"] for result in results] == [139, 139, "street", "street"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_coco_results_of_nothing_are_an_empty_list(tmp_path: Path) -> None:
    with CocoJson(tmp_path / "results.json", NAMES):
        pass
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_a_run_that_breaks_off_leaves_whole_results(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), CocoJson(tmp_path / "results.json", NAMES) as sink:
        sink.write(frame(0, "1.jpg"), FOUND)
        raise KeyboardInterrupt
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2


def test_a_device_is_not_renamed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(SinkError, match="it is a pipe or a device; name a file"):
        CocoJson(tmp_path / "pipe.json", NAMES, force=True)


# Videos and images


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    images = []
    while True:
        ok, image = capture.read()
        if not ok:
            return images, capture.get(cv2.CAP_PROP_FPS)
        images.append(image)


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "OUT.MP4"])
def test_a_video_has_every_frame_with_its_boxes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with Video(path, NAMES, 12.5) as sink:
        for index in range(6):
            sink.write(frame(index, level=40 * index), FOUND if index == 0 else Detections.none())
            assert not path.exists()
    images, fps = read_video(path)
    assert (len(images), fps, images[0].shape) == (6, 12.5, (80, 100, 3))
    assert images[0][20:60, 10:40].max() > 100, "boxes are drawn"
    assert [float(image.mean()) for image in images[1:]] == pytest.approx([40, 80, 120, 160, 200], abs=6)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_the_frame_itself_is_left_as_it_is(tmp_path: Path) -> None:
    given = frame()
    with Video(tmp_path / "out.avi", NAMES) as video, Images(tmp_path, NAMES) as images:
        video.write(given, FOUND)
        images.write(given, FOUND)
    assert not given.image.any()


def test_frames_are_drawn_in_memory_that_is_used_again(tmp_path: Path) -> None:
    given = frame(width=640, height=480)
    with Video(tmp_path / "out.avi", NAMES) as sink:
        sink.write(given, FOUND)
        tracemalloc.start()
        try:
            for _ in range(10):
                sink.write(given, FOUND)
            assert tracemalloc.get_traced_memory()[1] < given.image.nbytes
        finally:
            tracemalloc.stop()


def test_a_live_recording_keeps_its_pace(tmp_path: Path) -> None:
    with Video(tmp_path / "out.avi", NAMES, 10) as sink:
        for index in (3, 4, 7, 12):
            sink.write(frame(index, level=20 * index), Detections.none())
    images, _ = read_video(tmp_path / "out.avi")
    assert [round(float(image.mean()) / 20) for image in images] == [3, 4, 7, 7, 7, 12, 12, 12, 12]


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Video(tmp_path / "out.avi", NAMES, 10) as sink:
        sink.write(frame(0, level=200), Detections.none())
        for index in (1, 2):
            sink.write(frame(index, width=50, height=80, level=200), Detections.none())
        sink.write(frame(3, level=200), Detections.none())
    images, _ = read_video(tmp_path / "out.avi")
    assert [image.shape for image in images] == [(80, 100, 3)] * 4
    assert images[2][:, :20].mean() < 10 and images[2][:, 80:].mean() < 10 and images[2][:, 30:70].mean() > 190
    assert images[3].mean() > 190
    assert caplog.messages == [
        f"{tmp_path}/out.avi: frames changed from 100x80 to 50x80; fitted into the first",
    ]


def test_a_video_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with Video(tmp_path / "out.mp4", NAMES):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_video_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"out\.mpeg: a video's name ends in one of \.mp4, \.avi"):
        Video(tmp_path / "out.mpeg", NAMES)


def test_images_keep_their_names(tmp_path: Path) -> None:
    with Images(tmp_path / "p", NAMES) as sink:
        sink.write(frame(0, "a.png"), FOUND)
        sink.write(frame(1, "deep/b.tif"), FOUND)
        sink.write(frame(2, "clip.mp4"), FOUND)
    names = sorted(str(path.relative_to(tmp_path / "p")) for path in tmp_path.rglob("*.*"))
    assert names == ["a.png", "clip_000002.jpg", "deep/b.jpg"]
    image = cv2.imread(str(tmp_path / "p" / "a.png"))
    assert image is not None and image.shape == (80, 100, 3) and image.any()


# What every sink refuses

Make = Callable[[Path, bool], Sink]
FILES: dict[str, Make] = {
    "a.jsonl": lambda path, force: JsonLines(path, NAMES, force=force),
    "a.json": lambda path, force: CocoJson(path, NAMES, force=force),
    "a.mp4": lambda path, force: Video(path, NAMES, force=force),
}
FOLDERS: dict[str, Make] = {
    "000001.txt": lambda path, force: YoloTxt(path.parent, NAMES, force=force),
    "000001.jpg": lambda path, force: Images(path.parent, NAMES, force=force),
}
EVERY = [pytest.param(name, make, id=name) for name, make in (FILES | FOLDERS).items()]


@pytest.mark.parametrize(("name", "make"), EVERY)
def test_what_is_there_is_overwritten_only_when_told(tmp_path: Path, name: str, make: Make) -> None:
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(SinkError) as caught, make(path, False) as sink:
        sink.write(frame(0, "000001.jpg"), FOUND)
    assert str(caught.value) == f"{path} is there already: pass --force to overwrite it"
    assert path.read_text() == "mine"
    with make(path, True) as sink:
        sink.write(frame(0, "000001.jpg"), FOUND)
    assert path.read_bytes() != b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "make"), list(FILES.items()))
def test_a_file_that_is_there_is_refused_at_once(tmp_path: Path, name: str, make: Make) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SinkError):
        make(tmp_path / name, False)


@pytest.mark.parametrize(("name", "make"), list(FILES.items()))
def test_a_folder_is_no_file(tmp_path: Path, name: str, make: Make) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(SinkError, match="it is a folder; name a file"):
        make(tmp_path / name, True)


@pytest.mark.parametrize(("name", "make"), EVERY)
def test_what_cannot_be_written_to_is_refused_at_once(tmp_path: Path, name: str, make: Make) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"^cannot write .*file.*: (Not a directory|File exists)$") as caught:
        make(tmp_path / "file" / name, False)
    assert caught.value.exit_code == 2


@pytest.fixture
def small_disk(mount_disk: Callable[[int], Path]) -> Path:
    """A disk that holds little more than what a video keeps free."""
    return mount_disk(17)


@pytest.mark.root
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "000001.txt", "000001.jpg"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(small_disk: Path, name: str) -> None:
    room = small_disk / "filled"
    sink = (FILES | FOLDERS)[name](small_disk / name, False)
    with room.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    random = Frame(np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8), 0, 0, "000001.jpg")
    with pytest.raises(SinkError, match="No space left on device"):
        for _ in range(1000):
            sink.write(random, FOUND)
        sink.close()
    sink.close()
    left = {entry.name: entry.read_text() for entry in small_disk.iterdir() if entry != room}
    assert left == ({"a.jsonl": ""} if name == "a.jsonl" else {})


@pytest.mark.root
def test_json_lines_on_a_full_disk_are_whole(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(16 << 20))
    with JsonLines(small_disk / "a.jsonl", NAMES) as sink, pytest.raises(SinkError, match="No space left on device"):
        while True:
            parts = (FOUND.xyxy, FOUND.confidence, FOUND.class_id)
            sink.write(frame(), Detections(*(np.repeat(part, 200, 0) for part in parts)))
    lines = (small_disk / "a.jsonl").read_text().splitlines()
    assert len(lines) > 10
    assert all(len(json.loads(line)["detections"]) == 400 for line in lines)


@pytest.mark.root
def test_a_video_stops_before_the_disk_is_full(small_disk: Path) -> None:
    random = np.random.default_rng(0)
    with pytest.raises(SinkError, match="No space left on device"), Video(small_disk / "a.avi", NAMES) as sink:
        for index in range(1000):
            image = random.integers(0, 255, (480, 640, 3), np.uint8)
            sink.write(Frame(image, 0, index, "x"), Detections.none())
    images, _ = read_video(small_disk / "a.avi")
    assert images
