"""The choices that `fit` has, and the plans that the knapsack makes of them: against every combination tried."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import squares
from onnx import helper

from edgesparse.config import parse
from edgesparse.model.load import Model, load
from edgesparse.progress import Progress, quiet
from edgesparse.refinement import Refine, Refinement, Trained
from edgesparse.sparsity.inspect import inspect
from edgesparse.tasks import fit_network, fit_stages
from edgesparse.tasks.fit_changes import CHANNELS, INT8, SPARSE
from edgesparse.tasks.fit_choices import Choices, Plan
from edgesparse.tasks.fit_costs import Costs
from edgesparse.tasks.fit_network import FitOptions, Network, Settings, predicted
from edgesparse.tasks.fit_stages import Stages
from edgesparse.tasks.inputs import ScoredModel

KINDS = (INT8, SPARSE, CHANNELS)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a detector whose outputs depend on wide layers: they compute its scores a second time, times zero."""
    folder = tmp_path_factory.mktemp("choices")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        cv2.imwrite(str(folder / f"images/{number}.png"), rng.integers(0, 256, (64, 64, 3), np.uint8))
    nodes, weights, name = [], {}, "images"
    for i, (inputs, side) in enumerate(((3, 1), (64, 3), (64, 3))):
        weights[f"w{i}"] = rng.standard_normal((64, inputs, side, side)).astype(np.float32) / 8
        nodes += [helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], f"side{i}", pads=[side // 2] * 4)]
        nodes += [helper.make_node("Relu", [f"c{i}"], [f"r{i}"])]
        name = f"r{i}"
    squares.detector(folder / "side.onnx", more=(nodes, weights, name))
    recipe = parse({"model": str(folder / "side.onnx")}, "recipe")
    return Settings(FitOptions(count=2), recipe, str(folder / "images"), folder)


def start(settings: Settings) -> Network:
    return fit_network.base(settings.source, settings)


@pytest.fixture(scope="module")
def choices(settings: Settings) -> Choices:
    each = Choices(start(settings), settings, quiet)
    # every change is measured, and most are 0 in a detector that does not need these layers: let them differ
    each.__dict__["int8"] = {name: 0.01 * number for number, name in enumerate(each.int8, 1)}
    each.__dict__["sparse"] = {name: 0.04 / number for number, name in enumerate(each.sparse, 1)}
    each.__dict__["widths"] = [replace(width, change=0.03 * number) for number, width in enumerate(each.widths, 1)]
    return each


def test_every_kind_has_choices_that_were_measured(choices: Choices) -> None:
    assert [choices.obstacle(kind) for kind in KINDS] == ["", "", ""]
    assert set(choices.int8) == {"side0", "side1"} and set(choices.sparse) == {"side1", "side2"}
    assert {width.block.name for width in choices.widths} <= {"side0", "side1", "side2"}


def test_plans_get_faster_as_more_may_change_and_are_predicted_as_whole_networks(choices: Choices) -> None:
    plans = choices.plans(KINDS)
    assert len(plans) > 1 and all(a.change < b.change and a.ms > b.ms for a, b in pairwise(plans))
    for plan in plans:
        model = choices.narrowing.shape_without(plan.dropped) if plan.dropped else choices.model
        floats = choices.layers - set(plan.int8)
        ms = predicted(model, choices.board, "int8" if plan.int8 else "fp16", floats if plan.int8 else (), plan.sparse)
        assert plan.ms == pytest.approx(ms)


def test_no_other_layers_that_change_as_little_are_faster(choices: Choices) -> None:
    names = list(choices.int8)
    sets = [names_ for count in range(len(names) + 1) for names_ in combinations(names, count)]
    saved = {chosen: sum(choices.gains[name] for name in chosen) for chosen in sets}
    for plan in choices.plans((INT8,)):
        gain = sum(choices.gains[name] for name in plan.int8)
        within = [chosen for chosen in sets if sum(choices.int8[name] for name in chosen) <= plan.change + 1e-9]
        assert gain >= max(saved[chosen] for chosen in within) - 1e-9


def test_a_plan_becomes_a_network_with_its_prediction_stage_by_stage(choices: Choices, settings: Settings) -> None:
    plan = choices.plans(KINDS)[-1]
    plan = replace(plan, sparse=("side1", "side2"))
    first = start(settings)
    costs = Costs(settings.folder / "costs.json")
    stages = list(Stages(settings, costs, quiet).of(first, plan, choices))
    kinds = [kind for kind, _ in stages]
    assert kinds[-1] == INT8 and SPARSE in kinds
    sparse = dict(stages)[SPARSE]
    layers = {layer.name: layer.state for layer in inspect(load(sparse.model)).layers}
    assert sparse.sparse and all(layers[name] == "sparse" for name in sparse.sparse)
    assert all(a.ms >= b.ms for (_, a), (_, b) in pairwise(stages))
    again = Stages(settings, Costs(settings.folder / "costs.json"), quiet)
    choices.__dict__["narrowing"] = None  # what was made is not made again
    assert list(again.of(first, plan, choices)) == stages


def test_with_steps_the_2to4_weights_are_trained(
    choices: Choices, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def refiner(scored: ScoredModel, source: str, count: int, steps: int, progress: Progress) -> Refine:
        def refine(dense: Model, pruned: Model, checkpoint: Path | None, progress: Progress) -> Trained:
            runs.append((steps, checkpoint is not None, pruned is not dense))
            return Trained(pruned, {}, Refinement(steps, 2, 1, 1.0, 0.5))

        return refine

    monkeypatch.setattr(fit_stages, "refiner", refiner)
    settings = replace(settings, options=replace(settings.options, steps=4))
    costs = Costs(settings.folder / "trained.json")
    plan = Plan(sparse=("side1",))
    for _ in range(2):
        ((kind, network),) = Stages(settings, costs, quiet).of(start(settings), plan, choices)
    assert runs == [(4, True, True)] and kind == SPARSE and network.sparse == ("side1",)
