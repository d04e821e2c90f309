"""Several sinks at once: those that were asked for, all finished at the end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.open import open_sinks
from edgesparse.stream.sinks.text import JsonLines, YoloTxt

NAMES = ("person", "dog")
FOUND = Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.9], np.float32), np.array([1]))


def frame(index: int) -> Frame:
    return Frame(np.zeros((48, 64, 3), np.uint8), time.monotonic_ns(), index, "clip.avi")


def test_none_are_opened_unless_they_are_asked_for() -> None:
    with open_sinks(NAMES) as sinks:
        assert sinks == []


def test_all_that_are_asked_for_are_written_and_finished(tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        "jsonl": str(tmp_path / "out.jsonl"),
        "txt": tmp_path / "txt",
        "coco": tmp_path / "out.json",
        "video": tmp_path / "out.mp4",
        "images": tmp_path / "images",
    }
    with open_sinks(NAMES, **wanted) as sinks:
        for index in range(2):
            for sink in sinks:
                sink.write(frame(index), FOUND)
    assert len(sinks) == 5
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert [result["category_id"] for result in json.loads((tmp_path / "out.json").read_text())] == [1, 1]
    assert len(list((tmp_path / "txt").iterdir())) == len(list((tmp_path / "images").iterdir())) == 2
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_what_was_written_is_finished_when_something_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the camera burst"):
        with open_sinks(NAMES, jsonl=str(tmp_path / "out.jsonl"), coco=tmp_path / "out.json") as sinks:
            for sink in sinks:
                sink.write(frame(0), FOUND)
            raise RuntimeError("the camera burst")
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_one_that_cannot_be_opened_closes_the_others(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").touch()
    with pytest.raises(SinkError, match=r"out.mp4 is there already: pass --force"):
        with open_sinks(NAMES, coco=tmp_path / "out.json", video=tmp_path / "out.mp4"):
            pytest.fail("it opened")
    assert not list(tmp_path.glob(".*"))
    with open_sinks(NAMES, video=tmp_path / "out.mp4", force=True) as sinks:
        sinks[0].write(frame(0), FOUND)
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_they_come_in_one_order(tmp_path: Path) -> None:
    with open_sinks(NAMES, txt=tmp_path / "txt", jsonl=str(tmp_path / "out.jsonl")) as sinks:
        assert [type(sink) for sink in sinks] == [JsonLines, YoloTxt]


def test_several_cameras_have_a_video_each(tmp_path: Path) -> None:
    rates = {"left": 25.0, "right": 10.0}
    with open_sinks(NAMES, jsonl=str(tmp_path / "out.jsonl"), video=tmp_path / "out.mp4", fps=rates) as sinks:
        for index, camera in enumerate(("left", "right", "left", "later")):
            taken = frame(index)
            taken.source = camera
            for sink in sinks:
                sink.write(taken, FOUND)
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["out-later.mp4", "out-left.mp4", "out-right.mp4"]
    assert cv2.VideoCapture(str(tmp_path / "out-right.mp4")).get(cv2.CAP_PROP_FPS) == 10
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["camera"] for line in lines] == ["left", "right", "left", "later"]


def test_a_video_that_is_there_already_leaves_nothing_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "out-right.mp4").write_bytes(b"mine")
    with pytest.raises(SinkError, match=r"out-right\.mp4 is there already"):
        with open_sinks(NAMES, video=tmp_path / "out.mp4", fps={"left": 0.0, "right": 0.0}):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["out-right.mp4"]


def test_zones_and_tracks_are_in_the_lines(tmp_path: Path) -> None:
    found = Detections(
        np.zeros((2, 4), np.float32),
        np.ones(2, np.float32),
        np.array([0, 1]),
        (("door",), ("door", "hall")),
        np.array([-1, 7]),
    )
    with open_sinks(NAMES, jsonl=str(tmp_path / "out.jsonl")) as (sink,):
        sink.write(frame(0), found)
    (line,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert [(box["zones"], box["track"]) for box in line["detections"]] == [(["door"], None), (["door", "hall"], 7)]
    assert "camera" not in line
