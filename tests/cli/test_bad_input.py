"""Every invalid input ends with one clear line and the exit code of its kind, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import squares
from commands import Command

from edgesparse.package.store import Store

node = onnx.helper.make_node


def text_file(folder: Path) -> list[str]:
    (folder / "text.onnx").write_text("this is no model")
    return ["build", "text.onnx"]


def truncated(folder: Path) -> list[str]:
    whole = squares.detector(folder / "cut.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    return ["build", "cut.onnx"]


def classifier(folder: Path) -> list[str]:
    squares.constant(folder / "classes.onnx", {"logits": np.zeros((1, 1000), np.float32)})
    return ["build", "classes.onnx"]


def unknown_operator(folder: Path) -> list[str]:
    shape = (1, 3, 64, 64)
    squares.write(folder / "op.onnx", [node("Sharpen", ["images"], ["y"])], {}, [("images", shape)], [("y", shape)])
    return ["build", "op.onnx"]


def custom_domain(folder: Path) -> list[str]:
    squares.set_domain(squares.detector(folder / "domain.onnx"), "com.acme")
    return ["build", "domain.onnx"]


def dynamic(folder: Path) -> list[str]:
    squares.detector(folder / "dynamic.onnx", size=("h", "w"))
    return ["build", "dynamic.onnx"]


def wrong_size(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    (folder / "m.yaml").write_text("model: m.onnx\ninput: {size: 96}")
    return ["build", "m.yaml"]


def size_that_the_graph_refuses(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx", size=("h", "w"))
    (folder / "m.yaml").write_text("model: m.onnx\ninput: {size: 96}\nhead: yolov8")
    return ["build", "m.yaml"]


def unknown_key(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    (folder / "m.yaml").write_text("model: m.onnx\nruns: {conf: 0.5}")
    return ["build", "m.yaml"]


def labels_without_content(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    (folder / "labels.json").write_text("{}")
    return ["evaluate", "m.onnx", "--annotations", "labels.json"]


def not_good_enough(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx", shift=1.0)
    squares.coco_annotations(folder)
    (folder / "m.yaml").write_text("model: m.onnx\naccept: {annotations: instances_val.json, min_map: 90}")
    return ["build", "m.yaml"]


def damaged_image(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    (folder / "bad.png").write_bytes(b"no image")
    return ["run", "m.onnx", "--source", "bad.png"]


def no_such_source(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    return ["run", "m.onnx", "--source", "nowhere.mp4"]


def no_source(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    return ["run", "m.onnx"]


def no_such_camera(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    return ["run", "m.onnx", "--source", "77"]


def no_camera_at_all(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    return ["run", "m.onnx", "--source", "-1"]


def no_such_scheme(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    return ["run", "m.onnx", "--source", "rstp://user:secret@host/x"]


def no_answer(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    return ["run", "m.onnx", "--source", "rtsp://user:secret@127.0.0.1:9/x?key=secret"]


def cameras(folder: Path, text: str) -> list[str]:
    squares.detector(folder / "m.onnx")
    (folder / "m.yaml").write_text(f"model: m.onnx\nrun: {{cameras: [{text}]}}")
    return ["run", "m.yaml"]


def size_of_a_camera(folder: Path) -> list[str]:
    return cameras(folder, "{name: gate, source: 'rtsp://user:secret@host/x', size: '0x480'}")


def zone_that_crosses_itself(folder: Path) -> list[str]:
    return cameras(folder, "{name: gate, source: 0, zones: {door: [[0, 0], [1, 1], [1, 0], [0, 1]]}}")


def zone_outside_the_frame(folder: Path) -> list[str]:
    return cameras(folder, "{name: gate, source: 0, zones: {door: [[0, 0], [640, 0], [640, 480]]}}")


def cameras_of_one_name(folder: Path) -> list[str]:
    return cameras(folder, "{name: gate, source: 0}, {name: gate, source: 1}")


def class_of_a_camera(folder: Path) -> list[str]:
    return cameras(folder, "{name: gate, source: demo, classes: [gren]}, {name: hall, source: demo}")


def unknown_class(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    return ["run", "m.onnx", "--source", "demo", "--classes", "gren"]


def output_in_a_file(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    squares.coco_annotations(folder)
    return ["run", "m.onnx", "--source", "0.png", "--coco", "m.onnx/out.json"]


def output_that_exists(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    squares.coco_annotations(folder)
    return ["run", "m.onnx", "--source", "0.png", "--jsonl", "instances_val.json"]


def store_in_a_file(folder: Path) -> list[str]:
    squares.detector(folder / "m.onnx")
    return ["build", "m.onnx", "--store", "m.onnx"]


Make = Callable[[Path], list[str]]
BAD: dict[Make, tuple[int, str]] = {
    text_file: (2, r"text.onnx is not a complete ONNX file \(not ONNX, or truncated\): export or copy it again"),
    truncated: (2, r"cut.onnx is not a complete ONNX file"),
    classifier: (2, r"no known head: found logits 1x1000 float32 .*; this looks like a classifier"),
    unknown_operator: (2, r"op.onnx: operator Sharpen is not in ONNX opset 17: export with plain ONNX operators"),
    custom_domain: (2, r"ONNX Runtime refuses it: .*com.acme"),
    dynamic: (2, r"the input images 1x3x\?x\? has no fixed height and width: set input.size .*--size H W"),
    wrong_size: (2, r"the input is images 1x3x64x64, needed 96x96: export the model at 96x96"),
    size_that_the_graph_refuses: (1, r"ONNX Runtime cannot run model.onnx: "),
    unknown_key: (2, r"m.yaml: unknown key 'runs': did you mean 'run'\?"),
    labels_without_content: (2, r"labels.json is not COCO JSON"),
    not_good_enough: (1, r"refused: found 30.\d mAP, needed accept.min_map 90"),
    damaged_image: (2, r"bad.png: none of its 1 images can be read"),
    no_such_source: (2, r"no source nowhere.mp4: no such file, folder or camera"),
    no_source: (2, r"no source: pass --source, or set run.source in the recipe"),
    no_such_camera: (3, r"no camera 77: /dev/video77 does not exist; found: "),
    no_camera_at_all: (2, r"no camera -1: cameras are numbered from 0"),
    no_such_scheme: (2, r"cannot open rstp://host/x: an address starts with one of rtsp, "),
    no_answer: (3, r"cannot open rtsp://127.0.0.1:9/x: connection refused: is the port right, "),
    size_of_a_camera: (2, r"run.cameras.0.size.0: found 0 \(a whole number\), needed at least 16"),
    zone_that_crosses_itself: (2, r"run.cameras.0.zones.door: found .* needed a polygon whose sides do not cross"),
    zone_outside_the_frame: (2, r"run.cameras.0.zones.door.1.0: found 640 .* needed at most 1"),
    cameras_of_one_name: (2, r"needed cameras of different names, found gate, gate"),
    class_of_a_camera: (2, r"run.cameras.gate.classes: no class 'gren': did you mean 'green'\?"),
    unknown_class: (2, r"run.classes: no class 'gren': did you mean 'green'\?"),
    output_in_a_file: (2, r"m.onnx is a file: name a folder"),
    output_that_exists: (2, r"instances_val.json already exists: pass --force to overwrite it"),
    store_in_a_file: (2, r"cannot write to m.onnx/m: Not a directory: choose another with --store"),
}


@pytest.mark.parametrize(("make", "ends"), BAD.items(), ids=[make.__name__ for make in BAD])
def test_bad_input(
    edgesparse: Command, tmp_path: Path, make: Callable[[Path], list[str]], ends: tuple[int, str]
) -> None:
    arguments = make(tmp_path)
    before = {path for path in tmp_path.rglob("*") if "engines" not in path.parts}
    ended = edgesparse(*arguments)
    assert re.search(ends[1], ended.message) and ended.code == ends[0], ended
    assert "secret" not in ended.err
    after = {path for path in tmp_path.rglob("*") if "engines" not in path.parts}
    assert after == before
    assert not list(tmp_path.glob("engines/*/.unfinished*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["biuld", "m.onnx"], "No such command 'biuld'."),
        (["build", "--fast", "m.onnx"], "No such option '--fast'"),
        (["build"], "Missing argument 'RECIPE.yaml|MODEL.onnx'. (see 'edgesparse build --help')"),
        (["keys"], "needed a command: new, public, rotate, show (see 'edgesparse keys --help')"),
        (
            ["recipe", "m.onnx", "-o", "/proc/x.yaml"],
            "cannot write to folder /proc: No such file or directory; name another",
        ),
        (["bundle", "m.onnx", "-o", "b.esb", "--key", "k", "--version", "one"], "needed numbers separated by dots"),
        (["keys", "new", "/proc/a/c"], "cannot write to folder /proc/a: No such file or directory; name another"),
        (["run", "m.onnx", "--conf", "high"], "Invalid value for '--conf': 'high' is not a valid number."),
        (["run", "m.onnx", "--tiles", "640,2"], "needed at most 0.9"),
        (["run", "m.onnx", "--conf", "2"], "Invalid value for '--conf': 2.0 is not in the range 0<=x<=1."),
        (["run", "m.onnx", "--line", "0.5,0,0.5,1"], "needed NAME=X1,Y1,X2,Y2, as way=0.5,0,0.5,1"),
        (["run", "m.onnx", *("--line", "a=0,0,1,1") * 2], "found two lines named a, needed a name for each"),
        (["run", "m.onnx", "--coco", "-"], "--coco -: name a file; only --jsonl can write to standard output"),
        (["keys", "show", "/dev/null"], "/dev/null is a file: name a folder"),
        (["inspect", "m.onnx", "--device", "orin-nano-8gb:"], "orin-nano-8gb has no mode ''"),
        (["run", "m.onnx", "--line", "a=0,0,0,0"], "--line: run.cameras.0.lines.a: found"),
        (["run", "m.onnx", "--line", "a=0,0,nan,0"], "--line: run.cameras.0.lines.a.1.0: found nan"),
        (["run", "demo", "--service", "--line", "a=0,0,1,0"], "--service takes its outputs from --settings"),
        (["run", "m.onnx", "--settings", "device.yaml"], "--settings needs --service"),
        (["run", "demo", "--service", "--video", "v.mp4"], "--service takes its outputs from --settings"),
        (["run", "demo", "--service", "--settings", "gone.yaml"], "no settings gone.yaml: write one with 'run:'"),
        (["build", "nowhere.onnx"], "no model nowhere.onnx: pass the path of an ONNX file"),
        (["build", "nowhere.yaml"], "no recipe nowhere.yaml: write one with 'edgesparse recipe MODEL.onnx"),
        (["build", "nowhere"], "nowhere: needed a recipe (.yaml), a model (.onnx)"),
        (["evaluate", "m.onnx"], "Missing option '--annotations'."),
        (["evaluate", "m.onnx", "--annotations", "."], "found 0 annotation files in ., needed one: name the file"),
        (["recipe", "m.onnx", "--size", "640"], "Option '--size' requires 2 arguments."),
    ],
)
def test_wrong_use(edgesparse: Command, arguments: list[str], message: str) -> None:
    ended = edgesparse(*arguments)
    assert ended.code == 2 and message in ended.message


def test_a_package_for_another_version_is_refused(edgesparse: Command, model: Path, images: Path) -> None:
    edgesparse("build", model)
    manifest = next(Path("engines/squares").glob("*/manifest.json"))
    manifest.write_text(re.sub(r'"onnxruntime": "[\d.]+"', '"onnxruntime": "99.0"', manifest.read_text()))
    ended = edgesparse("run", "engines/squares", "--source", images)
    assert ended.code == 1
    assert re.search(r"found ONNX Runtime [\d.]+, needed 99.0 or newer: build it here with", ended.message)


def test_a_build_in_another_process_is_refused(edgesparse: Command, model: Path) -> None:
    with Store(Path("engines"), "squares").lock():
        ended = edgesparse("build", model)
    assert ended.code == 1 and f"process {os.getpid()} is already building squares" in ended.message


@pytest.mark.root
def test_a_full_disk_is_refused_without_leftovers(edgesparse: Command, small_disk: Path, model: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(2_500_000))
    ended = edgesparse("build", model, "--store", small_disk)
    assert ended.code == 1 and re.search(r"no space left in .*: needed .* MB, free .* MB", ended.message)
    assert [path.name for path in (small_disk / "squares").iterdir()] == [".lock"]


@pytest.mark.root
def test_a_disk_that_fills_up_ends_the_run(edgesparse: Command, small_disk: Path, model: Path) -> None:
    edgesparse("build", model)
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(4_000_000))
    ended = edgesparse("run", model, "--source", "demo", "--jsonl", small_disk / "out.jsonl")
    assert ended.code == 2 and re.search(r"cannot write .*out.jsonl: No space left on device", ended.message)


def test_as_a_program_it_behaves_the_same(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no model")
    command = [sys.executable, "-m", "edgesparse", "build", "text.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("edgesparse: text.onnx is not a complete ONNX file")
