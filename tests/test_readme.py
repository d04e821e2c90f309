"""The README's commands that start from scratch, and the one that needs a camera."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_blocks import ROOT, blocks, run_command

COMMANDS = "\n".join(block.text for block in blocks(ROOT / "README.md") if block.language == "sh")


def test_the_readme_has_its_commands() -> None:
    assert re.findall(r"^scripts/\w+", COMMANDS, re.MULTILINE) == ["scripts/demo", "scripts/test"]
    assert re.findall(r"^edgesparse (\w+)", COMMANDS, re.MULTILINE) == ["doctor", "recipe", "build", "run"]


@pytest.mark.no_camera
def test_detect_on_a_camera(tmp_path: Path) -> None:
    """Without a camera it prints one line and exits with 3."""
    if Path("/dev/video0").exists():
        pytest.skip("there is a camera: it would run until it is stopped")
    shutil.copy(ROOT / "edgesparse" / "demo" / "parts_dense.onnx", tmp_path / "detector.onnx")
    run_command(["bash", "-c", "edgesparse build detector.onnx"], tmp_path, "build")
    command = [sys.executable, str(ROOT / "apps" / "detect.py"), "--camera", "0"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 3
    assert result.stderr.splitlines()[-1].startswith("detect.py: no camera 0")


@pytest.mark.long
def test_the_demo(tmp_path: Path) -> None:
    printed = run_command([str(ROOT / "scripts" / "demo"), str(tmp_path)], ROOT, "scripts/demo")
    score = re.search(r"mAP ([\d.]+)  mAP50", printed)
    assert score is not None and float(score[1]) > 85
    assert "300 frames" in printed
    assert (tmp_path / "parts.mp4").stat().st_size > 100_000
    assert (tmp_path / "000000.jpg").stat().st_size > 10_000
    lines = (tmp_path / "parts.jsonl").read_text().splitlines()
    assert len(lines) == 300 and json.loads(lines[0])["detections"]
    (following,) = re.findall(r"python (apps/detect\.py .*?)  +#", printed)
    run_command(
        [sys.executable, *following.split(), "--frames", "1", "--quiet"], ROOT, "the command that is shown next"
    )
