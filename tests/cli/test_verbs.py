"""The verbs from a model to detections: what they print for people and for programs, and how a run ends."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import squares
from commands import Command, Started

import edgesparse as package
from edgesparse.cli import main, show


def test_the_whole_way_from_a_model_to_detections(edgesparse: Command, model: Path, images: Path) -> None:
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


def test_a_recipe_on_standard_output_is_all_that_is_there(edgesparse: Command, model: Path) -> None:
    ended = edgesparse("recipe", model, "-o", "-")
    assert ended.out.startswith("# What squares.onnx is") and ended.err == ""


def test_for_programs_there_is_json(edgesparse: Command, model: Path, images: Path) -> None:
    built = edgesparse("build", model, "--json").json
    assert built["reused"] is False and built["detector"]["classes"] == ["red", "green"]
    assert edgesparse("build", model, "--json").json["folder"] == built["folder"]
    scored = edgesparse("evaluate", model, "--annotations", images, "--json").json
    assert scored["map"] == pytest.approx(100) and scored["images"] == 4
    timed = edgesparse("bench", model, "--source", images, "--frames", 2, "--json").json
    assert timed["frames"] == 2 and timed["latency"]["engine"]["p50"] > 0 and timed["where"] == "the CPU"
    found = edgesparse("run", model, "--source", images, "--json").json
    assert found["frames"] == 4 and sum(found["classes"].values()) == 24 and found["ended"] == "end of source"
    doctor = edgesparse("doctor", "--json").json
    assert doctor["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_command_line_wins_over_the_recipe(edgesparse: Command, model: Path, images: Path) -> None:
    Path("squares.yaml").write_text(f"model: squares.onnx\nrun: {{source: '{images}', classes: [red]}}")
    red = edgesparse("run", "squares.yaml", "--json").json
    assert list(red["classes"]) == ["red"] and red["frames"] == 4
    green = edgesparse("run", "squares.yaml", "--classes", "green", "--frames", 2, "--json").json
    assert list(green["classes"]) == ["green"] and green["frames"] == 2
    few = edgesparse("run", "squares.yaml", "--classes", "0, green", "--max-det", 1, "--json").json
    assert few["detections"] == 4


def test_detections_on_standard_output_have_it_to_themselves(edgesparse: Command, model: Path, images: Path) -> None:
    ended = edgesparse("run", model, "--source", images, "--jsonl", "-")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [len(line["detections"]) for line in lines] == [6, 6, 6, 6]
    assert "24 detections" in ended.err


def test_classes_may_be_given_for_a_model_that_names_none(edgesparse: Command, tmp_path: Path, images: Path) -> None:
    squares.detector(tmp_path / "m.onnx", names=None)
    Path("names.txt").write_text("red\ngreen\n")
    scored = edgesparse("evaluate", "m.onnx", "--annotations", images, "--names", "names.txt", "--json").json
    assert {found["name"] for found in scored["classes"]} == {"red", "green"}


def test_doctor_says_what_is_there_and_what_is_missing(edgesparse: Command, monkeypatch: pytest.MonkeyPatch) -> None:
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


# How a run ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_a_run_with_whole_outputs_and_a_summary(
    started: Started, model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = started("run", model, "--source", "demo", "--jsonl", "-", "--coco", "out.json", "--video", "out.avi")
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in (first + out).splitlines()]
    assert f"\n{len(lines)} frames" in err and "interrupted" in err and "Traceback" not in err
    assert isinstance(json.loads((tmp_path / "out.json").read_text()), list)
    assert (tmp_path / "out.avi").stat().st_size > 0
    assert not list(tmp_path.glob(".*"))


def test_a_signal_while_it_builds_leaves_no_package(started: Started, model: Path, tmp_path: Path) -> None:
    process = started("build", model, before="from edgesparse.builder import build; build.TIMING_SECONDS = 60.0")
    assert process.stderr is not None
    for line in process.stderr:
        if line == "timing fp32\n":
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err.strip() == "edgesparse: interrupted"
    assert [path.name for path in (tmp_path / "engines/squares").iterdir()] == [".lock"]


def test_a_reader_that_has_seen_enough_ends_it_quietly(started: Started, model: Path) -> None:
    process = started("run", model, "--source", "demo", "--jsonl", "-")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=20) == 0
    assert "Error" not in err and "Exception" not in err and "closed" in err


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"], ["--help"]])
def test_standard_output_that_is_full_is_one_line(started: Started, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        process = started(*arguments, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err == "edgesparse: cannot go on: [Errno 28] No space left on device\n"


# How progress looks


def test_without_a_terminal_a_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress() as advance:
        for done in range(100):
            advance("scoring", done, 100)
        advance("writing", 0, 0)
    assert capsys.readouterr().err == "scoring 0/100\nwriting\n"


def test_on_a_terminal_it_is_a_bar_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with show.progress() as advance:
        advance("scoring", 1, 2)
    captured = capsys.readouterr()
    assert "scoring" in captured.err and captured.out == ""


def test_complaints_are_one_line_whatever_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    show.complain("a\n  b\tc")
    assert capsys.readouterr().err == "edgesparse: a b c\n"


def test_main_without_arguments_takes_those_of_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edgesparse", "--version"])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    signal.signal(signal.SIGTERM, handler)
    assert ended.value.code in (None, 0) and "version" in capsys.readouterr().out


def test_what_engines_carry_is_measured_in_batches_and_streams(edgesparse: Command, model: Path) -> None:
    asked = ("--batch", "1,2", "--streams", "1,2", "--seconds", "0.02", "--candidates", "fp32")
    ended = edgesparse("bench", model, *asked, "--html", "carries.html")
    assert ended.code == 0 and "cameras dense (fp32, batch" in ended.out and ended.out.count("fp32  ") == 4
    assert "<svg" in Path("carries.html").read_text() and not Path("engines").exists()
    said = edgesparse("bench", model, *asked, "--fps", 20, "--json").json
    assert [(row["batch"], row["streams"]) for row in said["loads"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(row["cameras"] > 0 and 0 < row["p50"] <= row["p99"] for row in said["loads"])
    edgesparse("build", model)
    said = edgesparse("bench", "engines/squares", "--streams", 2, "--seconds", "0.02", "--json").json
    assert [(row["batch"], row["streams"]) for row in said["loads"]] == [(1, 2)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--batch", "0"), 2, "--batch: found 0, needed whole numbers from 1 to 64"),
        (("--streams", "two"), 2, "--streams: found two"),
        (("--html", "page.html"), 2, "--html and --candidates need --batch or --streams"),
        (("--batch", "1", "--html", "squares.onnx"), 2, "squares.onnx already exists: pass --force"),
        (("--batch", "1", "--candidates", "fp12"), 2, "'fp12'"),
    ],
)
def test_what_bench_cannot_measure_is_refused(
    edgesparse: Command, model: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ended = edgesparse("bench", model, *arguments)
    assert ended.code == code and message in ended.said


def test_a_package_is_measured_in_its_own_batch(edgesparse: Command, model: Path) -> None:
    edgesparse("build", model)
    ended = edgesparse("bench", "engines/squares", "--batch", "2")
    assert ended.code == 2 and "the package has batch 1, asked for 2: give its recipe" in ended.said
