"""The verbs from a model to detections: what they print for people and for programs."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import squares
from commands import Command

import edgesparse as package
from edgesparse.cli import main


def test_from_a_model_to_detections(edgesparse: Command, model: Path, images: Path) -> None:
    ended = edgesparse("recipe", model)
    assert (ended.code, ended.out) == (
        0,
        "",
    ) and f"wrote {model.with_suffix('.yaml')}; next: edgesparse build" in ended.err
    ended = edgesparse("build", "squares.yaml")
    assert ended.code == 0 and "head yolov8, 2 classes, input 64x64" in ended.out and "kept" in ended.out
    assert "next: edgesparse run engines/squares" in ended.out
    ended = edgesparse("evaluate", "engines/squares", "--annotations", images)
    assert ended.code == 0 and "squares on 4 images" in ended.out and "mAP 100.0  mAP50 100.0" in ended.out
    ended = edgesparse("bench", "engines/squares", "--source", images, "--frames", 3)
    assert ended.code == 0 and "milliseconds" in ended.out and "3 frames" in ended.out
    ended = edgesparse("run", "engines/squares", "--source", images, "--coco", "found.json")
    assert ended.code == 0 and "4 frames" in ended.out and "24 detections" in ended.out
    assert len(json.loads(Path("found.json").read_text())) == 24


def test_a_printed_recipe_is_all_of_the_output(edgesparse: Command, model: Path) -> None:
    ended = edgesparse("recipe", model, "-o", "-")
    assert ended.out.startswith("# Describes squares.onnx ") and ended.err == ""


def test_json_for_programs(edgesparse: Command, model: Path, images: Path) -> None:
    built = edgesparse("build", model, "--json").json
    assert built["reused"] is False and built["detector"]["classes"] == ["red", "green"]
    assert edgesparse("build", model, "--json").json["folder"] == built["folder"]
    scored = edgesparse("evaluate", model, "--annotations", images, "--json").json
    assert scored["map"] == pytest.approx(100) and scored["images"] == 4
    timed = edgesparse("bench", model, "--source", images, "--frames", 2, "--json").json
    assert timed["frames"] == 2 and timed["latency"]["engine"]["p50"] > 0 and timed["where"] == "the CPU"
    result = edgesparse("run", model, "--source", images, "--json").json
    assert result["frames"] == 4 and sum(result["classes"].values()) == 24 and result["ended"] == "end of source"
    doctor = edgesparse("doctor", "--json").json
    assert doctor["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_large_images_are_scored_with_tiles(edgesparse: Command, model: Path, tmp_path: Path) -> None:
    labels = squares.large_annotations(tmp_path)
    ended = edgesparse("evaluate", model, "--annotations", labels, "--tiles", "64,0")
    assert ended.code == 0 and "squares on 1 images, tiled" in ended.out and "mAP 100.0" in ended.out
    scored = edgesparse("evaluate", model, "--annotations", labels, "--json").json
    assert scored["map"] < 20 and not scored["tiles"]


def test_the_command_line_overrides_the_recipe(edgesparse: Command, model: Path, images: Path) -> None:
    Path("squares.yaml").write_text(f"model: squares.onnx\nrun: {{source: '{images}', classes: [red]}}")
    red = edgesparse("run", "squares.yaml", "--json").json
    assert list(red["classes"]) == ["red"] and red["frames"] == 4
    green = edgesparse("run", "squares.yaml", "--classes", "green", "--frames", 2, "--json").json
    assert list(green["classes"]) == ["green"] and green["frames"] == 2
    few = edgesparse("run", "squares.yaml", "--classes", "0, green", "--max-det", 1, "--json").json
    assert few["detections"] == 4


def test_nothing_but_detections_goes_to_standard_output(edgesparse: Command, model: Path, images: Path) -> None:
    ended = edgesparse("run", model, "--source", images, "--jsonl", "-")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [len(line["detections"]) for line in lines] == [6, 6, 6, 6]
    assert "24 detections" in ended.err


def test_class_names_for_a_model_without(edgesparse: Command, tmp_path: Path, images: Path) -> None:
    squares.detector(tmp_path / "m.onnx", names=None)
    Path("names.txt").write_text("red\ngreen\n")
    scored = edgesparse("evaluate", "m.onnx", "--annotations", images, "--names", "names.txt", "--json").json
    assert {result["name"] for result in scored["classes"]} == {"red", "green"}


def test_doctor_reports_what_is_missing_and_how_to_get_it(edgesparse: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = edgesparse("doctor")
    assert ended.code == 0 and "onnxruntime" in ended.out and "ok" in ended.out
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = edgesparse("doctor", "--json")
    missing = [finding for finding in ended.json["findings"] if finding["state"] == "needed"]
    assert ended.code == 3 and [finding["remedy"] for finding in missing] == ["pip install onnxruntime"]


def test_help_and_version(edgesparse: Command) -> None:
    assert edgesparse("--version").out == f"edgesparse, version {package.__version__}\n"
    everything = edgesparse()
    assert everything.code == 0 and everything.out == edgesparse("--help").out
    for verb in ("doctor", "recipe", "build", "evaluate", "bench", "run"):
        assert f"\n  {verb} " in everything.out
        ended = edgesparse(verb, "-h")
        assert ended.code == 0 and ended.out.startswith(f"Usage: edgesparse {verb} ")


def test_main_reads_the_arguments_of_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edgesparse", "--version"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit) as ended:
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert ended.value.code in (None, 0) and "version" in capsys.readouterr().out
