"""Build and self-test of a slot for real, with ONNX Runtime, in a process of its own at low priority."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import pytest
import squares
import yaml

from edgesparse.builder.targets import open_detector, ready
from edgesparse.errors import DeployError
from edgesparse.fleet import expected
from edgesparse.fleet.making import make
from edgesparse.fleet.slots import Slot
from edgesparse.package.store import open_package
from edgesparse.progress import quiet


@pytest.fixture
def slot(tmp_path: Path, quick: None) -> Slot:
    """One whose bundle expects what the detector of squares finds."""
    slot = Slot(tmp_path / "a")
    for folder in (slot.bundle / "model", slot.bundle / "selftest"):
        folder.mkdir(parents=True)
    detector = squares.detector(slot.bundle / "model" / "squares.onnx")
    image = slot.bundle / "selftest" / "0.png"
    cv2.imwrite(str(image), squares.image([(1, 1, 0), (4, 6, 1)]))
    with open_detector(ready(detector, tmp_path / "reference")) as reference:
        expected.write(slot.bundle / "selftest" / expected.FILE, reference, [image], ["0.png"])
    recipe(slot)
    return slot


def recipe(slot: Slot, **deploy: Any) -> None:
    said = {"model": "model/squares.onnx", "build": {"backend": "onnxruntime"}, "deploy": deploy}
    (slot.bundle / "recipe.yaml").write_text(yaml.safe_dump(said))


def children() -> set[int]:
    """Of this process."""
    return {int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


def test_a_good_one_is_built_at_low_priority(slot: Slot) -> None:
    nice: list[int] = []
    before = children()

    def look(step: str, done: int, total: int) -> None:
        nice.extend(os.getpriority(os.PRIO_PROCESS, pid) for pid in children() - before)

    made = make(slot, look)
    assert made.backend == "onnxruntime" and made.build_id == open_package(slot.package).manifest.build_id
    assert made.selftest["boxes"] == 2 and made.selftest["recall"] == made.selftest["precision"] == 1
    assert made.selftest["latency_ms"] > 0
    assert max(nice) >= os.getpriority(os.PRIO_PROCESS, 0) + min(10, 19 - os.getpriority(os.PRIO_PROCESS, 0))


def test_an_engine_that_finds_something_else_fails(slot: Slot) -> None:
    squares.detector(slot.bundle / "model" / "squares.onnx", shift=7)
    with pytest.raises(DeployError, match=r"^the self-test found 0 % of 2 expected boxes.*min_agreement 70 % of each$"):
        make(slot, quiet)


def test_an_engine_that_is_too_slow_fails(slot: Slot) -> None:
    recipe(slot, max_latency_ms=0.001)
    with pytest.raises(DeployError, match=r"took .* ms a frame, needed deploy.max_latency_ms 0.001"):
        make(slot, quiet)


def test_a_model_that_is_none_is_one_line(slot: Slot) -> None:
    (slot.bundle / "model" / "squares.onnx").write_bytes(b"no model")
    with pytest.raises(DeployError, match=r"squares\.onnx"):
        make(slot, quiet)


def test_a_process_that_dies_is_told(slot: Slot) -> None:
    before = children()

    def kill(step: str, done: int, total: int) -> None:
        for pid in children() - before:
            os.kill(pid, 9)

    with pytest.raises(DeployError, match=r"the build ended without a word \(code -9\)"):
        make(slot, kill)
