"""`edgesparse hard-frames`, and the way of its images: labeled elsewhere, into a recipe, through the gates."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import squares
from commands import Command

from edgesparse.camera import Camera
from edgesparse.config import Run
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.labels.coco import SUGGESTIONS
from edgesparse.service.frame_copies import CopiedFrame
from edgesparse.service.monitor.hard_frames import HardFrames
from edgesparse.service.monitor.hard_settings import HardFrameSettings

SCENES = ([(1, 1, 0), (5, 5, 1)], [(2, 6, 1)], [(6, 2, 0), (3, 3, 0)])
STEP = 8
ENGINE: Any = SimpleNamespace(
    identity=SimpleNamespace(classes=squares.NAMES, model="squares", package="build", sha256="c" * 64),
    run=Run(cameras=(Camera(name="door", source="0"),)),
)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Three frames that a service has stored, and what it saw in them: in each, all squares but the last."""
    hard = HardFrames(HardFrameSettings(), tmp_path, ENGINE)
    for scene in SCENES:
        seen = scene[:-1]
        boxes = np.array([box(square) for square in seen], np.float32).reshape(-1, 4)
        classes = np.array([square[2] for square in seen], np.int64)
        detections = Detections(boxes, np.full(len(seen), 0.3, np.float32), classes)
        hard.add(CopiedFrame("door", squares.image(scene), detections, time.monotonic_ns(), ("near",)))
    hard.close()
    return tmp_path / "hard"


def box(square: squares.Square) -> list[float]:
    column, row, _ = square
    return [STEP * column, STEP * row, STEP * (column + 1), STEP * (row + 1)]


def corrected(suggestions: dict[str, Any]) -> dict[str, Any]:
    """What a labelling tool exports once somebody has added the missing squares."""
    annotations: list[dict[str, Any]] = []
    for image, scene in zip(suggestions["images"], SCENES, strict=True):
        for left, top, right, bottom, label in ((*box(square), square[2]) for square in scene):
            size = [left, top, right - left, bottom - top]
            values = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label + 1, "iscrowd": 0}
            annotations.append({**values, "bbox": size, "area": size[2] * size[3]})
    return {**suggestions, "info": {}, "annotations": annotations}


def test_labelled_frames_go_through_the_same_gates(edgesparse: Command, stored: Path, tmp_path: Path) -> None:
    ended = edgesparse("hard-frames", stored, "-o", "new")
    assert ended.code == 0 and ended.out == "new: 3 frames (3 near), 2 detections as suggestions\n"
    records = [json.loads(line) for line in (tmp_path / "new" / "manifest.jsonl").read_text().splitlines()]
    images = sorted(path.name for path in (tmp_path / "new" / "images").iterdir())
    assert images == [record["file"] for record in records] and records[0]["package"] == "build"

    refused = edgesparse("check-labels", "new/suggestions.json", "--images", "new/images")
    assert refused.code == 2 and "holds a detector's own boxes, needed labels" in refused.message

    suggestions = json.loads((tmp_path / "new" / "suggestions.json").read_text())
    assert suggestions["info"]["edgesparse"] == SUGGESTIONS and len(suggestions["annotations"]) == 2
    labels = tmp_path / "new" / "labels.json"
    labels.write_text(json.dumps(corrected(suggestions)))
    squares.detector(tmp_path / "squares.onnx")
    assert edgesparse("check-labels", "new/labels.json", "squares.onnx", "--images", "new/images").code == 0

    recipe = {
        "model": "squares.onnx",
        "classes": list(squares.NAMES),
        "build": {"backend": "onnxruntime", "candidates": ["fp32"], "threads": 1},
        "calibrate": {"images": "new/images"},
        "accept": {"annotations": "new/labels.json", "images": "new/images", "min_map": 90},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert edgesparse("build", "recipe.yaml").code == 0
    moved = corrected(suggestions)
    for annotation in moved["annotations"]:
        annotation["category_id"] = 3 - annotation["category_id"]
    labels.write_text(json.dumps(moved))
    assert edgesparse("build", "recipe.yaml").code == 1, "a detector that the labels contradict"


def test_nothing_is_overwritten_or_half_written(edgesparse: Command, stored: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert "new already exists: name another folder" in edgesparse("hard-frames", stored, "-o", "new").message
    assert "no folder " in edgesparse("hard-frames", "nowhere", "-o", "other").message
    assert "cannot write to folder /proc/a" in edgesparse("hard-frames", stored, "-o", "/proc/a/b").message
    assert "found no hard frame in new" in edgesparse("hard-frames", "new", "-o", "other").message
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == ["hard", "new"]


def test_frames_that_do_not_match_their_record_are_skipped_by_name(edgesparse: Command, stored: Path) -> None:
    first, second, _ = sorted(stored.glob("*.jpg"))
    first.write_bytes(b"other")
    second.with_suffix(".json").write_text("{}")
    report = edgesparse("hard-frames", stored, "-o", "new", "--json").json
    assert report["frames"] == 1 and report["cameras"] == {"door": 1}
    assert [line.split(": ")[0] for line in report["skipped"]] == [first.name, second.with_suffix(".json").name]
