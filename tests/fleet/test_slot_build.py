"""Real build and self-test of a slot with ONNX Runtime, in its own process at low priority."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import own_heads
import pytest
import squares
import yaml

from edgesparse.builder.targets import open_detector, ready
from edgesparse.errors import DeployError
from edgesparse.fleet import selftest
from edgesparse.fleet.slot_build import build_slot
from edgesparse.fleet.slots import DeploySlot
from edgesparse.package.store import open_package
from edgesparse.progress import quiet


@pytest.fixture
def slot(tmp_path: Path, quick: None) -> DeploySlot:
    """A slot with a bundle that expects the detections of the detector of squares."""
    slot = DeploySlot(tmp_path / "a")
    for folder in (slot.bundle / "model", slot.bundle / "selftest"):
        folder.mkdir(parents=True)
    detector = squares.detector(slot.bundle / "model" / "squares.onnx")
    image = slot.bundle / "selftest" / "0.png"
    cv2.imwrite(str(image), squares.image([(1, 1, 0), (4, 6, 1)]))
    with open_detector(ready(detector, tmp_path / "reference")) as reference:
        selftest.write(slot.bundle / "selftest" / selftest.FILE, reference, [image], ["0.png"])
    recipe(slot)
    return slot


def recipe(slot: DeploySlot, head: str = "auto", **deploy: Any) -> None:
    content = {"model": "model/squares.onnx", "head": head, "build": {"backend": "onnxruntime"}, "deploy": deploy}
    (slot.bundle / "recipe.yaml").write_text(yaml.safe_dump(content))


def children() -> set[int]:
    """Return the process ids of this process's children."""
    return {int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


def test_a_slot_is_built_at_low_priority(slot: DeploySlot) -> None:
    nice: list[int] = []
    before = children()

    def look(step: str, done: int, total: int) -> None:
        nice.extend(os.getpriority(os.PRIO_PROCESS, pid) for pid in children() - before)

    result = build_slot(slot, look)
    assert result.backend == "onnxruntime" and result.build_id == open_package(slot.package).manifest.build_id
    assert result.selftest["boxes"] == 2 and result.selftest["recall"] == result.selftest["precision"] == 1
    assert result.selftest["latency_ms"] > 0
    assert max(nice) >= os.getpriority(os.PRIO_PROCESS, 0) + min(10, 19 - os.getpriority(os.PRIO_PROCESS, 0))


def test_an_engine_with_other_detections_fails(slot: DeploySlot) -> None:
    squares.detector(slot.bundle / "model" / "squares.onnx", shift=7)
    with pytest.raises(DeployError, match=r"^the self-test found 0 % of 2 expected boxes.*min_agreement 70 % of each$"):
        build_slot(slot, quiet)


def test_an_engine_that_is_too_slow_fails(slot: DeploySlot) -> None:
    recipe(slot, max_latency_ms=0.001)
    with pytest.raises(DeployError, match=r"took .* ms per frame, needed deploy.max_latency_ms 0.001"):
        build_slot(slot, quiet)


def test_a_file_that_is_no_model_fails_in_one_line(slot: DeploySlot) -> None:
    (slot.bundle / "model" / "squares.onnx").write_bytes(b"no model")
    with pytest.raises(DeployError, match=r"squares\.onnx"):
        build_slot(slot, quiet)


def test_a_head_from_the_bundle_runs_in_the_self_test(slot: DeploySlot) -> None:
    own_heads.write(slot.bundle, source=own_heads.SOURCE.replace("scores.argmax(0)", "scores.argmin(0)"))
    recipe(slot, head="my_head.py:Squares", include_head=True)
    with pytest.raises(DeployError, match=r"^the self-test found 0 % of 2 expected boxes"):
        build_slot(slot, quiet)


def test_a_killed_build_is_reported(slot: DeploySlot) -> None:
    before = children()

    def kill(step: str, done: int, total: int) -> None:
        for pid in children() - before:
            os.kill(pid, 9)

    with pytest.raises(DeployError, match=r"the build ended without a result \(code -9\)"):
        build_slot(slot, kill)
