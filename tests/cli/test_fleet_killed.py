"""A deploy in its own process, with the real build on ONNX Runtime, killed in its long steps.

tests/fleet/test_power_cuts.py kills one before each of its disk operations.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import bundles
import pytest
import squares
import yaml
from commands import Command, Started

from edgesparse.builder.targets import open_detector
from edgesparse.fleet import contents, keys
from edgesparse.package.store import open_package

STEPS = ["building fp32", "self-test", "watching the service"]
BEFORE = """
import os, signal
from edgesparse.cli import device
from edgesparse.cli.show import progress
from contextlib import contextmanager

@contextmanager
def deadly():
    with progress() as advance:
        def at(step, done, total):
            advance(step, done, total)
            if step == {step!r}:
                os.kill(os.getpid(), signal.SIGKILL)
        yield at

device.progress = deadly
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    squares.detector(tmp_path / "squares.onnx")
    (tmp_path / "labels").mkdir()
    squares.coco_annotations(tmp_path / "labels")
    settings = {
        "model": "squares.onnx",
        "build": {"backend": "onnxruntime"},
        "deploy": {"images": "labels", "count": 2},
    }
    (tmp_path / "squares.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "squares.yaml"


def children_of(folder: Path) -> list[str]:
    """Command lines of the processes that work on a slot."""
    commands = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = line.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "edgesparse.fleet.slot_build" in command and str(folder) in command:
            commands.append(command)
    return commands


def test_killed_at_each_step(edgesparse: Command, started: Started, recipe: Path, tmp_path: Path) -> None:
    private = keys.read_private(bundles.key(tmp_path))
    for version, threads in (("1.0", 1), ("2.0", 2), ("3.0", 2)):
        settings = yaml.safe_load(recipe.read_text())
        settings["build"]["threads"] = threads  # changes the build
        recipe.write_text(yaml.safe_dump(settings))
        contents.make(recipe, tmp_path / f"{version}.esb", private, version=version)
    common = ("--root", tmp_path / "device", "--trusted", tmp_path / "trusted", "--json")
    assert edgesparse("deploy", "1.0.esb", "--restart", "", *common).code == 0
    for step in STEPS:
        arguments = ("deploy", "2.0.esb", "--restart", "true", "--status", "none.json", *common)
        killed = started(*arguments, before=BEFORE.format(step=step))
        killed.communicate(timeout=120)
        assert killed.returncode == -signal.SIGKILL, step
        deadline = time.monotonic() + 60
        while children_of(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not children_of(tmp_path), f"the build outlived a deploy that was killed at {step}"
        with open_detector(open_package(tmp_path / "device" / "current" / "package")) as detector:
            assert len(detector(squares.image([(1, 2, 0)]))) == 1, step
        recovered = edgesparse("deploy", "--recover", "--root", tmp_path / "device", "--json").json
        assert recovered["changed"], step
        assert edgesparse("status", "--root", tmp_path / "device", "--json").json["running"]["version"] == "1.0"
    assert edgesparse("deploy", "3.0.esb", "--restart", "", *common).json["result"] == "deployed"
    assert edgesparse("status", "--root", tmp_path / "device", "--json").json["under_way"] is None
