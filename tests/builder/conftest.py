"""Builds with the null backend, with the outcome per candidate set by the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import squares
from null_plans import Plan
from onnx import helper

from edgesparse.backends import null


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return squares.detector(tmp_path / "squares.onnx")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return squares.coco_annotations(tmp_path)


@pytest.fixture
def sparse_model(tmp_path: Path) -> Path:
    """A detector of squares with three more convolutions, two of them 2:4, whose results are multiplied by zero."""
    noise = np.random.default_rng(0)
    weights, nodes, before = {}, [], "wide0"
    weights["conv0.w"] = noise.normal(size=(64, 3, 1, 1)).astype(np.float32)
    nodes.append(helper.make_node("Conv", ["mean", "conv0.w"], ["wide0"], "conv0"))
    for i in (1, 2, 3):
        values = noise.normal(size=(64, 64, 3, 3)).astype(np.float32)
        if i < 3:
            values[:, ::2] = 0
        weights[f"conv{i}.w"] = values
        nodes.append(helper.make_node("Conv", [before, f"conv{i}.w"], [f"wide{i}"], f"conv{i}", pads=[1] * 4))
        before = f"wide{i}"
    return squares.detector(tmp_path / "squares.onnx", more=(nodes, weights, before))


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Write the plan for builds: settings for all candidates, and for individual ones by name."""

    def write(builds: dict[str, dict[str, Any]] | None = None, **settings: Any) -> Path:
        path = tmp_path / "null-plan.json"
        size = [1, 3, squares.SIZE, squares.SIZE]
        shapes = {
            "inputs": [["images", size, "float32"]],
            "outputs": [["output0", [1, 6, squares.CELLS], "float32"]],
        }
        path.write_text(json.dumps({**shapes, **settings, "builds": builds or {}}))
        monkeypatch.setenv(null.PLAN, str(path))
        return path

    return write
