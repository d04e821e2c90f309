"""JSON lines, YOLO label files and COCO results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sink_data import DETECTIONS, NAMES, gray_frame

from edgesparse.errors import ConfigError, SinkError
from edgesparse.runtime.counts import DIRECTIONS, Counts, Crossing, Stay
from edgesparse.runtime.detections import Detections, having
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.coco_json import CocoJson
from edgesparse.stream.sinks.json_lines import JsonLines, _rounded, frame_record, frame_text
from edgesparse.stream.sinks.yolo_txt import YoloTxt

# JSON lines


def test_a_line_of_json_per_frame(tmp_path: Path) -> None:
    path = tmp_path / "out" / "detections.jsonl"
    with JsonLines(path, NAMES) as sink:
        first = gray_frame(3, "rtsp://host/x")
        sink.write(first, DETECTIONS)
        on_disk = path.read_text()
        sink.write(gray_frame(4), Detections.none())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert json.loads(on_disk) == lines[0], "each line is flushed immediately"
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


def test_the_time_is_that_of_the_capture() -> None:
    recent, old = gray_frame(), gray_frame()
    old.time_ns -= 3600 * 10**9
    stamps = [
        datetime.fromisoformat(str(frame_record(frame, DETECTIONS, NAMES)["time"]).replace("Z", "+00:00"))
        for frame in (recent, old)
    ]
    assert (stamps[0] - stamps[1]).total_seconds() == pytest.approx(3600, abs=5)


def test_a_frame_of_a_video_has_its_time_in_the_video() -> None:
    frame = gray_frame()
    assert "video_time" not in frame_record(frame, DETECTIONS, NAMES)
    frame.position_ns = 1_234_567_890
    assert frame_record(frame, DETECTIONS, NAMES)["video_time"] == 1.235


Texts = st.text(st.sampled_from('a%"é{'), max_size=3)
Zones = st.lists(Texts, max_size=3, unique=True).map(tuple)
Numbers = st.floats(width=32) | st.floats(0, 1, width=32) | st.integers(-20, 20).map(lambda tenths: tenths / 10)


@st.composite
def detected(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 3))

    def some(values: st.SearchStrategy[Any], size: int = count) -> list[Any]:
        return draw(st.lists(values, min_size=size, max_size=size))

    zones = draw(st.none() | st.just(tuple(some(Zones))))
    seconds = st.floats(0, 1e17)
    dwell = tuple(tuple(some(seconds, len(each))) if draw(st.booleans()) else () for each in zones or ())
    return Detections(
        np.array(some(Numbers, 4 * count), np.float32).reshape(-1, 4),
        np.array(some(Numbers), np.float32),
        np.array(some(st.integers(0, 3)), np.int64),
        zones=zones,
        dwell=draw(st.sampled_from((None, dwell))) if zones is not None else None,
        track_id=draw(st.none() | st.just(np.array(some(st.integers(-1, 99)), np.int64))),
        keypoints=draw(st.none() | st.just(np.ones((count, 2, 3), np.float32))),
    )


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    names, class_ids, seconds = st.sampled_from("ab"), st.integers(0, 3), st.floats(0, 1e9)
    stays = st.lists(st.builds(Stay, names, st.integers(1, 99), class_ids, seconds), max_size=3).map(tuple)
    ways = st.sampled_from(DIRECTIONS)
    start = Counts(
        draw(st.dictionaries(names, st.just(((0.0, 0.0), (1.0, 1.0))))),
        draw(st.dictionaries(names, st.just(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))))),
        draw(st.booleans()),
        draw(st.dictionaries(st.tuples(names, ways, class_ids), st.integers(1, 10**6))),
        draw(st.dictionaries(st.tuples(names, class_ids), st.integers(1, 10**6))),
        draw(st.dictionaries(st.tuples(names, class_ids), st.tuples(st.integers(1, 99), seconds))),
    )
    crossings = st.lists(st.builds(Crossing, names, ways, st.integers(1, 99), class_ids), max_size=3).map(tuple)
    return start.after(draw(crossings), draw(stays), draw(stays))


@given(detected(), st.none() | counts(), Texts, st.none() | st.integers(0, 10**15), st.lists(Texts, max_size=3))
def test_a_line_is_the_record_of_its_frame_as_json(
    detections: Detections, counts: Counts | None, camera: str, position: int | None, names: list[str]
) -> None:
    detections = having(detections, counts=counts)
    frame = Frame(np.zeros((2, 3, 3), np.uint8), 5, 7, "video %s", camera, position)
    with mock.patch("edgesparse.stream.sinks.json_lines.wall_time", return_value="now"):
        assert frame_text(frame, detections, names) == json.dumps(frame_record(frame, detections, names))


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines("-", NAMES) as sink:
        sink.write(gray_frame(), DETECTIONS)
    assert json.loads(capsys.readouterr().out)["frame"] == 0


def test_a_reader_that_closes_the_pipe_stops_the_run_quietly() -> None:
    program = """
import time, numpy as np
from edgesparse.runtime.counts import DIRECTIONS, Counts, Crossing, Stay
from edgesparse.runtime.detections import Detections, having
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.json_lines import JsonLines
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


def test_a_full_disk_is_reported_in_one_line() -> None:
    sink = JsonLines("/dev/full", NAMES)
    with pytest.raises(SinkError, match=r"^cannot write /dev/full: No space left on device$") as caught:
        sink.write(gray_frame(), DETECTIONS)
    assert caught.value.exit_code == 2
    sink.close()


# YOLO


def test_yolo_boxes_are_relative_to_the_frame(tmp_path: Path) -> None:
    box = Detections(np.array([[10, 20, 30, 60]], np.float32), np.array([0.5], np.float32), np.array([1], np.int64))
    with YoloTxt(tmp_path / "labels") as sink:
        sink.write(gray_frame(0, "000000001.jpg"), box)
        sink.write(gray_frame(1, "left/b.png"), Detections.none())
        sink.write(gray_frame(12, "videos/clip one.mp4"), box)
        sink.write(gray_frame(7, "rtsp://host:554/x"), box)
        sink.write(gray_frame(8, "/dev/video0"), box)
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    line = "1 0.200000 0.500000 0.200000 0.500000 0.5000\n"
    assert written == {
        "labels/000000001.txt": line,
        "labels/left/b.txt": "",
        "labels/clip_one_000012.txt": line,
        "labels/rtsp_host_554_x_000007.txt": line,
        "labels/video0_000008.txt": line,
    }


# COCO


def test_coco_results_have_the_form_that_pycocotools_reads(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with CocoJson(path, NAMES) as sink:
        sink.write(gray_frame(0, "000000139.jpg"), DETECTIONS)
        sink.write(gray_frame(1, "000000285.jpg"), Detections.none())
        sink.write(gray_frame(2, "street.jpg"), DETECTIONS)
        assert not path.exists()
    results = json.loads(path.read_text())
    assert results[0] == {
        "image_id": 139,
        "file_name": "000000139.jpg",
        "category_id": 1,
        "category": NAMES[1],
        "bbox": [10.04, 20.06, 29.96, 39.94],
        "score": 0.87654,
    }
    assert [result["image_id"] for result in results] == [139, 139, "street", "street"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_coco_results_without_detections_are_an_empty_list(tmp_path: Path) -> None:
    with CocoJson(tmp_path / "results.json", NAMES):
        pass
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_an_interrupted_run_leaves_complete_results(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), CocoJson(tmp_path / "results.json", NAMES) as sink:
        sink.write(gray_frame(0, "1.jpg"), DETECTIONS)
        raise KeyboardInterrupt
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2


def test_coco_results_do_not_replace_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(SinkError, match="it is a pipe or a device; name a file"):
        CocoJson(tmp_path / "pipe.json", NAMES, force=True)


def test_coco_results_take_the_ids_of_a_data_set(tmp_path: Path) -> None:
    data_set = tmp_path / "instances.json"
    images = [{"id": 900, "file_name": "val/a.jpg"}, {"id": "b-1", "file_name": "b.jpg"}]
    categories = [{"id": 90 - i, "name": name.upper()} for i, name in enumerate(NAMES)]
    data_set.write_text(json.dumps({"images": images, "annotations": [{"category_id": 89}], "categories": categories}))
    path = tmp_path / "results.json"
    with CocoJson(path, NAMES, categories=data_set) as sink:
        for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
            sink.write(gray_frame(number, name), DETECTIONS)
    results = json.loads(path.read_text())
    assert [(result["image_id"], result["category_id"]) for result in results] == [(900, 89), ("b-1", 89)]


def test_a_data_set_of_other_categories_is_refused(tmp_path: Path) -> None:
    data_set = tmp_path / "instances.json"
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"category_id": 7}]}
    data_set.write_text(json.dumps({**content, "categories": [{"id": 7, "name": "unicorn"}]}))
    with pytest.raises(ConfigError, match="1 of 1 categories are no class of the detector: found 'unicorn'"):
        CocoJson(tmp_path / "results.json", NAMES, categories=data_set)
    assert not (tmp_path / "results.json").exists()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20), st.sampled_from([1, 3, 4]))
def test_numbers_are_rounded_as_python_rounds_them(values: list[float], digits: int) -> None:
    ties = [step * 10.0**-digits / 2 for step in range(-9, 10)]
    numbers = np.array([*values, *ties], np.float32)
    assert list(map(repr, _rounded(numbers, digits))) == [repr(round(value, digits)) for value in numbers.tolist()]
