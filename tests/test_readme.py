"""Every command of the README, as a reader would type it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"(?:^    .+\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def folder(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README supposes a reader has: a model, a labelled data set, a video."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(real / "models" / "yolox_nano.onnx", folder)
    labels = json.loads((real / "coco_mini" / "instances_val.json").read_text())
    labels["images"] = labels["images"][:8]
    ids = {image["id"] for image in labels["images"]}
    labels["annotations"] = [box for box in labels["annotations"] if box["image_id"] in ids]
    (folder / "coco" / "val").mkdir(parents=True)
    (folder / "coco" / "instances_val.json").write_text(json.dumps(labels))
    for image in labels["images"]:
        shutil.copy(real / "coco_mini" / "val" / image["file_name"], folder / "coco" / "val")
    film = cv2.VideoCapture(str(real / "video" / "bottle-detection.mp4"))
    short = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (640, 360))
    for _ in range(20):
        short.write(film.read()[1])
    short.release()
    (folder / "apps").symlink_to(ROOT / "apps")
    return folder


def test_the_readme_holds_the_commands_that_are_run_here() -> None:
    assert {"scripts/demo", "scripts/test", "python apps/detect.py --camera 0"} <= set(COMMANDS)
    assert sum(command.startswith("edgesparse ") for command in COMMANDS) >= 6


def test_your_detector(folder: Path) -> None:
    for command in COMMANDS:
        if command.startswith("edgesparse "):
            done = shell(command, folder)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert (folder / "boxes.mp4").stat().st_size > 10_000
    assert "bottle" in (folder / "boxes.jsonl").read_text()


@pytest.mark.no_camera
def test_detect_on_a_camera(folder: Path) -> None:
    """With a camera it detects until it is stopped; without one it says so in one line and ends with 3."""
    if Path("/dev/video0").exists():
        pytest.skip("there is a camera: it would run for ever")
    done = shell("edgesparse build yolox_nano.onnx && python apps/detect.py --camera 0", folder)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("detect.py: no camera 0")


def test_the_python_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert len(names["found"]) > 0  # type: ignore[arg-type]


def test_the_demo(tmp_path: Path) -> None:
    done = shell(f"{ROOT}/scripts/demo {tmp_path}", ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    score = re.search(r"mAP ([\d.]+)  mAP50", done.stdout)
    assert score is not None and float(score[1]) > 85
    assert "300 frames" in done.stdout
    assert (tmp_path / "parts.mp4").stat().st_size > 100_000
    assert (tmp_path / "000000.jpg").stat().st_size > 10_000
    lines = (tmp_path / "parts.jsonl").read_text().splitlines()
    assert len(lines) == 300 and json.loads(lines[0])["detections"]
