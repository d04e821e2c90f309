"""apps/detect.py as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "apps" / "detect.py"


def detect(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(APP), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the default detector, built once."""
    folder = tmp_path_factory.mktemp("app")
    assert detect(folder, "--model", "demo", "--source", "demo", "--frames", "1", "--quiet").returncode == 0
    return folder


def test_one_json_object_per_frame_and_a_summary(folder: Path) -> None:
    done = detect(folder, "--model", "demo", "--source", "demo:7", "--frames", "5", "--conf", "0.5", "--max-det", "3")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 5
    assert all(len(line["detections"]) <= 3 for line in lines)
    assert all(detection["confidence"] >= 0.5 for line in lines for detection in line["detections"])
    for word in ("preprocess", "engine", "decode", "nms", "age", "5 frames", "dropped"):
        assert word in done.stderr


def test_the_only_package_in_engines_is_the_default(folder: Path) -> None:
    done = detect(folder, "--source", "demo", "--frames", "2", "--classes", "gear,0", "--quiet")
    assert done.returncode == 0 and "2 frames" in done.stderr


def test_several_cameras(folder: Path) -> None:
    done = detect(folder, "--model", "demo", "--source", "demo:1", "--source", "demo:2", "--frames", "12")
    cameras = [json.loads(line)["camera"] for line in done.stdout.splitlines()]
    assert sorted(set(cameras)) == ["camera-1", "camera-2"] and len(cameras) == 12
    assert "camera-1" in done.stderr and "12 frames" in done.stderr


def test_ctrl_c_ends_with_the_summary(folder: Path) -> None:
    command = [sys.executable, str(APP), "--model", "demo", "--source", "demo"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("{")
        process.send_signal(signal.SIGINT)
        _, summary = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "interrupted" in summary and "per second" in summary


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--half",), 2, "found an fp32 engine, needed fp16"),
        (("--int8",), 2, "found an fp32 engine, needed int8"),
        (("--imgsz", "640"), 2, "--imgsz: found 320x320, needed 640x640"),
        (("--classes", "screw"), 2, "no class 'screw'"),
        (("--conf", "2"), 2, "run.conf: found 2.0"),
        (("--conf", "nan"), 2, "run.conf: found nan"),
        (("--data", "coco"), 2, "--data is now --names"),
        (("--pictures=out",), 2, "--pictures is now --save-images"),
        (("--model", "nothing.onnx"), 2, "no model nothing.onnx"),
    ],
)
def test_a_refusal_is_one_line(folder: Path, arguments: tuple[str, ...], code: int, line: str) -> None:
    model = () if "--model" in arguments else ("--model", "demo")
    done = detect(folder, *model, "--source", "demo", *arguments)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1 and line in done.stderr


def test_a_missing_camera(folder: Path) -> None:
    done = detect(folder, "--model", "demo", "--camera", "200")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1 and "no camera 200" in done.stderr


def test_an_app_is_short() -> None:
    assert len(APP.read_text().splitlines()) <= 100
    assert os.access(APP, os.X_OK)


SEAMS = {
    "examples/09_custom_head": {"backends.frames", "head_table", "runtime.heads.base", "runtime.heads.candidates"},
}
"""What an extension of edgesparse may import, besides the public names."""


def test_apps_and_documents_import_only_public_names() -> None:
    """They use only what `import edgesparse` offers, and edgesparse.training."""
    root = APP.parents[1]
    texts = [*root.glob("apps/*.py"), *root.glob("examples/**/*"), *root.glob("docs/**/*.md"), root / "README.md"]
    pattern = re.compile(r"^\s*(?:from|import) edgesparse\.([\w.]+)", re.MULTILINE)
    private = [
        f"{path.relative_to(root)}: edgesparse.{module}"
        for path in texts
        if path.suffix in (".py", ".md")
        for module in pattern.findall(path.read_text())
        if module not in {"training"} | SEAMS.get(str(path.parent.relative_to(root)), set())
    ]
    assert private == []
