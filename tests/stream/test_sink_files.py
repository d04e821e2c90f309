"""Shared behavior of all sinks that write files: refusals, full disks, annotated images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from sink_data import DETECTIONS, NAMES, gray_frame, noise_frame

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.coco_json import CocoJson
from edgesparse.stream.sinks.images import Images
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sinks.video import Video
from edgesparse.stream.sinks.yolo_txt import YoloTxt

Open = Callable[[Path, bool], Sink]
FILES: dict[str, Open] = {
    "a.jsonl": lambda path, force: JsonLines(path, NAMES, force=force),
    "a.json": lambda path, force: CocoJson(path, NAMES, force=force),
    "a.mp4": lambda path, force: Video(path, NAMES, force=force),
}
FOLDERS: dict[str, Open] = {
    "000001.txt": lambda path, force: YoloTxt(path.parent, force=force),
    "000001.jpg": lambda path, force: Images(path.parent, NAMES, force=force),
}
ALL = [pytest.param(name, open_sink, id=name) for name, open_sink in (FILES | FOLDERS).items()]


@pytest.mark.parametrize(("name", "open_sink"), ALL)
def test_existing_files_are_overwritten_only_if_forced(tmp_path: Path, name: str, open_sink: Open) -> None:
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(SinkError) as caught, open_sink(path, False) as sink:
        sink.write(gray_frame(0, "000001.jpg"), DETECTIONS)
    assert str(caught.value) == f"{path} exists already: pass --force to overwrite it"
    assert path.read_text() == "mine"
    with open_sink(path, True) as sink:
        sink.write(gray_frame(0, "000001.jpg"), DETECTIONS)
    assert path.read_bytes() != b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "open_sink"), list(FILES.items()))
def test_an_existing_file_is_refused_before_the_first_frame(tmp_path: Path, name: str, open_sink: Open) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SinkError):
        open_sink(tmp_path / name, False)


@pytest.mark.parametrize(("name", "open_sink"), list(FILES.items()))
def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path, name: str, open_sink: Open) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(SinkError, match="it is a folder; name a file"):
        open_sink(tmp_path / name, True)


@pytest.mark.parametrize(("name", "open_sink"), ALL)
def test_a_place_that_cannot_be_written_to_is_refused_early(tmp_path: Path, name: str, open_sink: Open) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        SinkError, match=r"^cannot write .*(Not a directory|File exists)$|is a file: name a folder$"
    ) as caught:
        open_sink(tmp_path / "file" / name, False)
    assert caught.value.exit_code == 2


def test_annotated_images_keep_their_names(tmp_path: Path) -> None:
    with Images(tmp_path / "p", NAMES) as sink:
        sink.write(gray_frame(0, "a.png"), DETECTIONS)
        sink.write(gray_frame(1, "deep/b.tif"), DETECTIONS)
        sink.write(gray_frame(2, "clip.mp4"), DETECTIONS)
    names = sorted(str(path.relative_to(tmp_path / "p")) for path in tmp_path.rglob("*.*"))
    assert names == ["a.png", "clip_000002.jpg", "deep/b.jpg"]
    image = cv2.imread(str(tmp_path / "p" / "a.png"))
    assert image is not None and image.shape == (80, 100, 3) and image.any()


@pytest.mark.root
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "000001.txt", "000001.jpg"])
def test_a_disk_that_fills_up_leaves_no_partial_files(nearly_full_disk: Path, name: str) -> None:
    filler = nearly_full_disk / "filler"
    sink = (FILES | FOLDERS)[name](nearly_full_disk / name, False)
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(SinkError, match="No space left on device"):
        for _ in range(1000):
            sink.write(noise_frame(0, "000001.jpg"), DETECTIONS)
        sink.close()
    sink.close()
    left = {entry.name: entry.read_text() for entry in nearly_full_disk.iterdir() if entry != filler}
    assert left == ({"a.jsonl": ""} if name == "a.jsonl" else {})


@pytest.mark.root
def test_json_lines_on_a_full_disk_are_complete(nearly_full_disk: Path) -> None:
    (nearly_full_disk / "filler").write_bytes(bytes(16 << 20))
    path = nearly_full_disk / "a.jsonl"
    n = np.tile(np.arange(len(DETECTIONS)), 200)
    many = Detections(DETECTIONS.xyxy[n], DETECTIONS.confidence[n], DETECTIONS.class_id[n])
    with JsonLines(path, NAMES) as sink, pytest.raises(SinkError, match="No space left on device"):
        while True:
            sink.write(gray_frame(), many)
    lines = path.read_text().splitlines()
    assert len(lines) > 10
    assert all(len(json.loads(line)["detections"]) == 400 for line in lines)
