"""Which candidates are useful for a backend and a model, and when one can no longer win."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from null_plans import Plan as Planned

from edgesparse import device
from edgesparse.backends import backend
from edgesparse.builder import candidates
from edgesparse.builder.candidates import CandidatePlan, least_ms, parse_plan, plan_candidates
from edgesparse.builder.prepare import Prepared, prepare
from edgesparse.config import SPARSE, WAYS, Recipe
from edgesparse.config import parse as recipe_of
from edgesparse.errors import BuildError
from edgesparse.model.load import load
from edgesparse.predict import boards, roofline
from edgesparse.predict.fusion import fused_layers


def recipe(model: Path, names: Any = "auto", **settings: Any) -> Recipe:
    build = {"backend": "null", "candidates": names}
    return recipe_of({"model": str(model), "classes": ["red", "green"], "build": build, **settings}, "recipe")


def prepared(model: Path) -> Prepared:
    folder = model.parent / "work"
    folder.mkdir(exist_ok=True)
    return prepare(recipe(model), folder)


def names(settings: Recipe, model: Path, engine: str = "null") -> list[str]:
    return [plan.name for plan in plan_candidates(settings, backend(engine), prepared(model)).possible]


def test_a_plan_and_its_name_convert_into_each_other() -> None:
    for way in WAYS:
        for sparse in (False, True):
            plan = CandidatePlan(way, sparse)
            assert parse_plan(plan.name) == plan and plan.name.endswith(SPARSE) == sparse
    assert {CandidatePlan(way).precision for way in WAYS} == {"fp32", "fp16", "int8"}


def test_more_precise_is_safer_and_dense_before_2to4() -> None:
    plans = sorted(map(parse_plan, ("int8-qdq-2:4", "int8-table", "fp16-2:4", "fp32")), key=lambda plan: plan.caution)
    assert [plan.name for plan in plans] == ["fp32", "fp16-2:4", "int8-table", "int8-qdq-2:4"]


def test_on_the_cpu_the_unchanged_model_is_built_and_int8_on_request(sparse_model: Path) -> None:
    settings = recipe(sparse_model, calibrate={"images": "somewhere"})
    assert names(settings, sparse_model, "onnxruntime") == ["fp32"]
    requested = recipe(sparse_model, ["int8-qdq", "fp32", "int8-qdq", "fp16"], calibrate={"images": "somewhere"})
    plans = plan_candidates(requested, backend("onnxruntime"), prepared(sparse_model))
    assert [plan.name for plan in plans.possible] == ["int8-qdq", "fp32"]
    ((impossible, reason),) = plans.impossible
    assert impossible.name == "fp16" and reason == "onnxruntime builds only fp32, int8-qdq here"


def test_a_backend_without_tables_or_2to4_has_no_such_candidates(sparse_model: Path, planned: Planned) -> None:
    planned(ways=["fp32", "fp16", "int8-qdq", "int8-qdq-sparse"], dense_because="SM 7.2 is before Ampere")
    settings = recipe(sparse_model, calibrate={"images": "somewhere"})
    assert names(settings, sparse_model) == ["int8-qdq", "fp16", "fp32"]
    notes = plan_candidates(settings, backend("null"), prepared(sparse_model)).notes
    assert notes == ("no 2:4 candidates: no 2:4 kernels: SM 7.2 is before Ampere",)


def test_the_placement_for_2to4_is_built_dense_only_as_a_twin(sparse_model: Path, planned: Planned) -> None:
    planned()
    settings = recipe(sparse_model, calibrate={"images": "somewhere"})
    assert {"int8-qdq-sparse", "int8-qdq-sparse-2:4"} <= set(names(settings, sparse_model))


def test_quick_is_one_candidate_per_precision_and_their_twins_where_a_gain_must_be_proven(
    sparse_model: Path, planned: Planned
) -> None:
    planned()
    images = {"images": "somewhere"}
    assert names(recipe(sparse_model, "quick", calibrate=images), sparse_model) == ["int8-qdq-2:4", "fp16-2:4"]
    assert names(recipe(sparse_model, "quick"), sparse_model) == ["fp16-2:4"]
    proven = recipe(sparse_model, "quick", calibrate=images, accept={"require_sparse": True})
    assert names(proven, sparse_model) == ["int8-qdq", "int8-qdq-2:4", "fp16", "fp16-2:4"]
    planned(dense_because="SM 7.2 is before Ampere")
    assert names(recipe(sparse_model, "quick", calibrate=images), sparse_model) == ["int8-qdq", "fp16"]
    assert names(recipe(sparse_model, "quick"), sparse_model, "onnxruntime") == ["fp32"]


def test_no_possible_candidate_is_one_line_with_every_reason(sparse_model: Path, planned: Planned) -> None:
    planned()
    with pytest.raises(BuildError, match=r"int8-table: INT8 needs .*; fp32-2:4: no 2:4 kernels exist in FP32"):
        plan_candidates(recipe(sparse_model, ["int8-table", "fp32-2:4"]), backend("null"), prepared(sparse_model))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is an Orin Nano with 8 GB."""
    machine = device.probe()
    orin = replace(machine, model="NVIDIA Jetson Orin Nano Developer Kit", memory=7_990_000_000)
    monkeypatch.setattr(device, "probe", lambda: orin)


def test_what_may_win_is_built_first(sparse_model: Path, planned: Planned) -> None:
    """INT8 before FP16 before FP32, dense before 2:4, and the rewritten network last."""
    planned()
    settings = recipe(sparse_model, calibrate={"images": "somewhere"})
    rewritten = replace(prepared(sparse_model), slim=sparse_model)
    plans = plan_candidates(settings, backend("null"), rewritten).possible
    slim, rest = [plan for plan in plans if plan.slim], [plan for plan in plans if not plan.slim]
    assert list(plans) == rest + slim and [plan.name for plan in slim] == ["int8-qdq-slim", "fp16-slim"]
    assert [plan.name for plan in rest][-3:] == ["fp16", "fp16-2:4", "fp32"]
    assert {plan.precision for plan in rest[:-3]} == {"int8"} and not rest[0].sparse and rest[1].sparse


def test_on_a_known_board_no_engine_is_faster_than_predicted(
    sparse_model: Path, board: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reading = prepared(sparse_model), Mock(side_effect=load)
    monkeypatch.setattr("edgesparse.model.load.load", reading)
    times = {
        name: least_ms(parse_plan(name), model) for name in ("fp32", "fp16", "fp16-2:4", "int8-qdq", "int8-qdq-2:4")
    }
    reading.assert_called_once_with(model.simplified)
    least = {name: time or 0.0 for name, time in times.items()}
    assert 1 > least["fp32"] > least["fp16"] > least["int8-qdq"] > 0
    assert least["fp16"] > least["fp16-2:4"] > 0 and least["int8-qdq"] > least["int8-qdq-2:4"] > 0
    work, nano = fused_layers(load(model.simplified)), boards.board("orin-nano-8gb")
    assert least["fp16"] == pytest.approx(roofline.predict(work, nano, "fp16").ms / 1.25)


@pytest.mark.parametrize(
    ("model", "gigabytes", "name"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", 62.8, "agx-orin-64gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 30.7, "agx-orin-32gb"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 15.8, "orin-nx-16gb"),
        ("NVIDIA Jetson Orin Nano Developer Kit", 7.6, "orin-nano-8gb"),
        ("NVIDIA Jetson Xavier NX", 7.6, None),
        ("", 64, None),
    ],
)
def test_boards_are_known_by_their_name_and_memory(
    monkeypatch: pytest.MonkeyPatch, model: str, gigabytes: float, name: str | None
) -> None:
    machine = replace(device.probe(), model=model, memory=int(gigabytes * 1e9))
    monkeypatch.setattr(device, "probe", lambda: machine)
    assert candidates.this_board() == name


def test_other_machines_have_no_lower_bound(sparse_model: Path) -> None:
    assert least_ms(CandidatePlan("fp32"), prepared(sparse_model)) is None
