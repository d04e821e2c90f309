"""Candidates of the rewritten network: when they exist, their file, and that they compete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import squares
from null_plans import Plan

from benchmarks.orin_slice import networks
from edgesparse.backends import backend
from edgesparse.builder.build import build
from edgesparse.builder.candidates import parse_plan, plan_candidates
from edgesparse.builder.prepare import prepare
from edgesparse.builder.slimmed import wants_slim, with_slim
from edgesparse.config import Recipe, parse
from edgesparse.model.load import info, load, save
from edgesparse.progress import quiet


def recipe(model: Path, **settings: object) -> Recipe:
    return parse({"model": str(model), "build": {"backend": "null"}, **settings}, "recipe")


@pytest.mark.usefixtures("quick")
def test_a_build_rewrites_the_network_by_itself_and_the_result_competes(
    planned: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing in the recipe asks for it. The rewritten network has the same outputs."""
    image, output = ["images", [1, 3, 64, 64], "float32"], ["output0", [1, 7, 84], "float32"]
    planned(inputs=[image], outputs=[output])
    monkeypatch.setitem(networks.SCALES, "tiny", (1 / 3, 0.0625, 128))
    save(networks.yolov8("tiny", "relu", 64, 3), tmp_path / "yolo.onnx")
    settings = recipe(tmp_path / "yolo.onnx", classes=["a", "b", "c"])
    manifest = build(settings, tmp_path / "engines", keep=tmp_path / "kept").package.manifest
    outcomes = {candidate.name: candidate.outcome for candidate in manifest.candidates}
    assert list(outcomes) == ["fp32", "fp16", "fp16-slim"] and set(outcomes.values()) == {"lost", "chosen"}
    (tmp_path / "work").mkdir()
    prepared = prepare(settings, tmp_path / "work")
    assert not wants_slim(settings, backend("onnxruntime"), prepared)
    rewritten, before = load(tmp_path / "kept" / "slim.onnx"), load(prepared.simplified)
    assert info(rewritten).outputs == info(before).outputs
    splits = [node.op_type for node in rewritten.graph.node].count("Split")
    assert splits == 1 < [node.op_type for node in before.graph.node].count("Split")  # the one in the decoding


def test_names_say_so_and_what_cannot_be_is_said(sparse_model: Path, planned: Plan, tmp_path: Path) -> None:
    planned()
    for name in ("fp16-slim", "int8-qdq-slim-2:4"):
        assert parse_plan(name).name == name and parse_plan(name).slim
    named = {"backend": "null", "candidates": ["fp32", "fp16-slim", "fp16-slim-2:4"]}
    settings = recipe(sparse_model, classes=list(squares.NAMES), build=named)
    (tmp_path / "work").mkdir()
    prepared = prepare(settings, tmp_path / "work")
    assert with_slim(prepared, tmp_path / "work", quiet).slim is None  # nothing to rewrite
    reasons = dict(plan_candidates(settings, backend("null"), prepared).impossible)
    assert reasons[parse_plan("fp16-slim")] == "no rewrite of the network is predicted to make it faster"
    reasons = dict(plan_candidates(settings, backend("null"), replace(prepared, slim=prepared.simplified)).impossible)
    assert "break the 2:4 pattern" in reasons[parse_plan("fp16-slim-2:4")]
