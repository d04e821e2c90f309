"""`edgesparse slim`: the file, the report, verbs that read the file, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import squares
from commands import Command

from benchmarks.orin_slice import networks


@pytest.fixture
def yolo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A very narrow YOLOv8 for three classes, with their names in its metadata."""
    monkeypatch.setitem(networks.SCALES, "tiny", (1 / 3, 0.0625, 128))
    model = networks.yolov8("tiny", "relu", 64, 3)
    model.metadata_props.extend([onnx.StringStringEntryProto(key="names", value="{0: 'a', 1: 'b', 2: 'c'}")])
    onnx.save(model, str(tmp_path / "yolo.onnx"))
    return tmp_path / "yolo.onnx"


def test_the_file_is_read_by_the_head_that_it_names(edgesparse: Command, yolo: Path, tmp_path: Path) -> None:
    ended = edgesparse("slim", yolo, "-o", "out.onnx", "--json")
    assert ended.code == 0, ended.err
    report: dict[str, Any] = ended.json
    assert report["head"] == "yolov8-maps" and report["after"]["kernels"] < 0.7 * report["before"]["kernels"]
    assert report["change"]["pixels"] < 0.5 and {step["rewrite"] for step in report["steps"]} >= {"maps", "selections"}
    assert edgesparse("recipe", "out.onnx").code == 0
    assert "head: yolov8-maps" in (tmp_path / "out.yaml").read_text()
    assert edgesparse("build", "out.onnx", "--store", "store").code == 0


def test_maps_that_no_head_reads_keep_their_decoding(edgesparse: Command, tmp_path: Path) -> None:
    """The maps of this detector have fewer channels than boxes alone take."""
    squares.detector(tmp_path / "squares.onnx")
    report: dict[str, Any] = edgesparse("slim", "squares.onnx", "-o", "out.onnx", "--json").json
    (maps,) = (step for step in report["steps"] if step["rewrite"] == "maps")
    assert report["head"] == "yolov8" and not maps["kept"] and "cannot read this network" in maps["why"]


def test_the_table_says_what_each_rewrite_saves(edgesparse: Command, tmp_path: Path) -> None:
    squares.detector(tmp_path / "squares.onnx")
    options = ("--keep-decoding", "--device", "agx-orin-64gb", "--precision", "fp16")
    ended = edgesparse("slim", "squares.onnx", "-o", "out.onnx", *options)
    assert ended.code == 0, ended.err
    assert "fp16 on agx-orin-64gb" in ended.out and "kernels before" in ended.out and "read by yolov8:" in ended.out
    assert ended.out.rstrip().endswith("next: edgesparse quantize or edgesparse build")
    assert [value.name for value in onnx.load(str(tmp_path / "out.onnx")).graph.output] == ["output0"]


def test_nothing_is_overwritten_and_an_unknown_board_is_refused(
    edgesparse: Command, yolo: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.onnx").write_text("mine")
    ended = edgesparse("slim", yolo, "-o", "out.onnx")
    assert ended.code == 2 and "already exists" in ended.err and (tmp_path / "out.onnx").read_text() == "mine"
    ended = edgesparse("slim", yolo, "-o", "new.onnx", "--device", "orin-nano-9gb")
    assert ended.code == 2 and "did you mean orin-nano-8gb" in ended.err and not (tmp_path / "new.onnx").exists()
