"""Several sinks at once: exactly those that were requested, all completed at the end."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgesparse.errors import SinkError
from edgesparse.runtime.counts import Counts, Crossing, Stay
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.masks import Bitmaps, Mask
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sinks.open import SINKS, SinkKind, SinkOptions, open_sinks
from edgesparse.stream.sinks.yolo_txt import YoloTxt

NAMES = ("person", "dog")
DETECTIONS = Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.9], np.float32), np.array([1]))


def frame(index: int) -> Frame:
    return Frame(np.zeros((48, 64, 3), np.uint8), time.monotonic_ns(), index, "clip.avi")


def test_none_are_opened_unless_requested() -> None:
    with open_sinks(NAMES) as sinks:
        assert sinks == []


def test_all_that_are_requested_are_written_and_completed(tmp_path: Path) -> None:
    targets: dict[str, Any] = {
        "jsonl": str(tmp_path / "out.jsonl"),
        "txt": tmp_path / "txt",
        "coco": tmp_path / "out.json",
        "video": tmp_path / "out.mp4",
        "save_images": tmp_path / "images",
    }
    with open_sinks(NAMES, **targets) as sinks:
        for index in range(2):
            for sink in sinks:
                sink.write(frame(index), DETECTIONS)
    assert len(sinks) == 5
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert [result["category_id"] for result in json.loads((tmp_path / "out.json").read_text())] == [1, 1]
    assert len(list((tmp_path / "txt").iterdir())) == len(list((tmp_path / "images").iterdir())) == 2
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_outputs_are_completed_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the camera failed"):
        with open_sinks(NAMES, jsonl=str(tmp_path / "out.jsonl"), coco=tmp_path / "out.json") as sinks:
            for sink in sinks:
                sink.write(frame(0), DETECTIONS)
            raise RuntimeError("the camera failed")
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_sink_that_cannot_be_opened_closes_the_others(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").touch()
    with pytest.raises(SinkError, match=r"out.mp4 exists already: pass --force"):
        with open_sinks(NAMES, coco=tmp_path / "out.json", video=tmp_path / "out.mp4"):
            pytest.fail("it opened")
    assert not list(tmp_path.glob(".*"))
    with open_sinks(NAMES, video=tmp_path / "out.mp4", force=True) as sinks:
        sinks[0].write(frame(0), DETECTIONS)
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_the_order_is_that_of_the_table(tmp_path: Path) -> None:
    with open_sinks(NAMES, txt=tmp_path / "txt", jsonl=str(tmp_path / "out.jsonl")) as sinks:
        assert [type(sink) for sink in sinks] == [JsonLines, YoloTxt]


def test_an_unknown_sink_is_refused() -> None:
    with pytest.raises(SinkError, match=r"^no sink 'kafka': needed one of jsonl, txt, coco, video, save_images, show$"):
        with open_sinks(NAMES, kafka="topic"):
            pytest.fail("it opened")


def test_a_new_sink_is_one_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Count(Sink):
        frames = 0

        def __init__(self, target: str, options: SinkOptions) -> None:
            self.target, self.options = target, options

        def write(self, frame: Frame, detections: Detections) -> None:
            self.frames += 1

        def close(self) -> None:
            pass

    monkeypatch.setitem(SINKS, "count", SinkKind(Count))
    with open_sinks(NAMES, fps=5, count="here") as sinks:
        sinks[0].write(frame(0), DETECTIONS)
    (sink,) = sinks
    assert isinstance(sink, Count) and (sink.frames, sink.target, sink.options.names) == (1, "here", NAMES)


def test_each_camera_has_a_video_of_its_own(tmp_path: Path) -> None:
    rates = {"left": 25.0, "right": 10.0}
    with open_sinks(NAMES, jsonl=str(tmp_path / "out.jsonl"), video=tmp_path / "out.mp4", fps=rates) as sinks:
        for index, camera in enumerate(("left", "right", "left", "later")):
            taken = frame(index)
            taken.source = camera
            for sink in sinks:
                sink.write(taken, DETECTIONS)
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["out-later.mp4", "out-left.mp4", "out-right.mp4"]
    assert cv2.VideoCapture(str(tmp_path / "out-right.mp4")).get(cv2.CAP_PROP_FPS) == 10
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["camera"] for line in lines] == ["left", "right", "left", "later"]


def test_an_existing_video_leaves_nothing_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "out-right.mp4").write_bytes(b"mine")
    with pytest.raises(SinkError, match=r"out-right\.mp4 exists already"):
        with open_sinks(NAMES, video=tmp_path / "out.mp4", fps={"left": 0.0, "right": 0.0}):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["out-right.mp4"]


def test_lines_have_zones_and_tracks(tmp_path: Path) -> None:
    detections = Detections(
        np.zeros((2, 4), np.float32),
        np.ones(2, np.float32),
        np.array([0, 1]),
        (("door",), ("door", "hall")),
        np.array([-1, 7]),
    )
    with open_sinks(NAMES, jsonl=str(tmp_path / "out.jsonl")) as (sink,):
        sink.write(frame(0), detections)
    (line,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert [(box["zones"], box["track"]) for box in line["detections"]] == [(["door"], None), (["door", "hall"], 7)]
    assert "camera" not in line


def test_lines_have_what_was_counted_in_the_frame_and_the_totals(tmp_path: Path) -> None:
    counts = Counts({"way": ((0, 0), (1, 1))}, {"hall": ((0, 0), (1, 0), (1, 1))}, tracked=True)
    before = counts.after((), (Stay("hall", 7, 1),), ())
    crossed = before.after((Crossing("way", "out", 7, 1),), (), (Stay("hall", 7, 1, 2.5),))
    detections = [
        replace(DETECTIONS, zones=(("hall",),), dwell=((1.25,),), counts=of) for of in (counts, before, crossed)
    ]
    with open_sinks(NAMES, jsonl=str(tmp_path / "out.jsonl")) as (sink,):
        for index, of in enumerate(detections):
            sink.write(frame(index), of)
    nothing, entered, left = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert "counted" not in nothing
    assert [box.get("dwell") for box in nothing["detections"]] == [{"hall": 1.25}]
    who = {"track": 7, "class_id": 1, "class": "dog"}
    assert entered["counted"]["entered"] == [{"zone": "hall", **who}] and "left" not in entered["counted"]
    assert left["counted"]["crossings"] == [{"line": "way", "direction": "out", **who}]
    assert left["counted"]["left"] == [{"zone": "hall", **who, "seconds": 2.5}]
    once, never = {"total": 1, "classes": {"dog": 1}}, {"total": 0, "classes": {}}
    assert left["counted"]["totals"] == {
        "lines": {"way": {"in": never, "out": once}},
        "zones": {"hall": {"entered": once, "left": once, "seconds": {"total": 2.5, "classes": {"dog": 2.5}}}},
    }


def test_the_outlines_of_a_mask_are_traced_once_for_all_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[Mask] = []
    trace = Mask._trace

    def counted(mask: Mask, bitmaps: Bitmaps) -> Any:
        traced.append(mask)
        return trace(mask, bitmaps)

    monkeypatch.setattr(Mask, "_trace", counted)
    mask = Mask(48, 64, np.array([500, 20, 28, 20, 2504], np.uint32))
    detections = replace(DETECTIONS, masks=(mask,))
    targets: Any = {"jsonl": str(tmp_path / "out.jsonl"), "txt": tmp_path / "txt", "save_images": tmp_path / "images"}
    with open_sinks(NAMES, **targets) as sinks:
        for sink in sinks:
            sink.write(frame(0), detections)
    assert len(sinks) == 3 and len(traced) == 1
    assert json.loads((tmp_path / "out.jsonl").read_text())["detections"][0]["polygons"]
