"""`fit` puts ReLU in place of SiLU where 2:4 needs it and is predicted to pay, and says where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import squares
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgesparse.compress import relu_places
from edgesparse.compress.relu_places import with_relu_at
from edgesparse.config import parse
from edgesparse.model.activations import stream
from edgesparse.model.load import Model, load
from edgesparse.progress import quiet
from edgesparse.sparsity import rebuild
from edgesparse.sparsity.inspect import inspect
from edgesparse.tasks import fit_changes, fit_network, fit_search, fit_stages
from edgesparse.tasks.fit import fit_folder
from edgesparse.tasks.fit_changes import CHANNELS, INT8, RELU, SPARSE
from edgesparse.tasks.fit_choices import Choices, Plan
from edgesparse.tasks.fit_costs import Costs
from edgesparse.tasks.fit_network import FitOptions, Network, Settings, predicted
from edgesparse.tasks.fit_report import FitReport
from edgesparse.tasks.fit_stages import Stages

node = helper.make_node


def with_side(path: Path, channels: int = 64, activation: str = "silu", depthwise: bool = False) -> Path:
    """The detector of squares, with three layers of `channels` beside it, which add a little to the scores.

    `depthwise`: the second one is, and reads channels of very different sizes.
    """
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {"last": rng.standard_normal((2, channels, 1, 1)) * 0.02}
    squares.detector(path)
    model = onnx.load(path)
    rest = [each for each in model.graph.node if each.output[0] not in ("mean", "compared")]
    nodes, name = list(model.graph.node)[:2], "images"
    nodes[1].output[0] = "colors"
    for i, inputs in enumerate((3, 1 if depthwise else channels, channels)):
        weights[f"w{i}"] = rng.standard_normal((channels, inputs, 3, 3)) / (9 * inputs) ** 0.5
        strides, group = [1 if i else 2] * 2, channels if inputs == 1 else 1
        nodes.append(node("Conv", [name, f"w{i}"], [f"c{i}"], f"side{i}", pads=[1] * 4, strides=strides, group=group))
        silu = [node("Sigmoid", [f"c{i}"], [f"s{i}"]), node("Mul", [f"c{i}", f"s{i}"], [f"a{i}"])]
        nodes += silu if activation == "silu" else [node("Relu", [f"c{i}"], [f"a{i}"])]
        name = f"a{i}"
    if depthwise:
        sizes = np.geomspace(1, 30, channels).reshape(-1, 1, 1, 1)
        weights |= {"w0": weights["w0"] * sizes, "w1": weights["w1"] / sizes}
    pool = node("AveragePool", [name], ["pooled"], kernel_shape=[4, 4], strides=[4, 4])
    last = node("Conv", ["pooled", "last"], ["noise"], "last")
    del model.graph.node[:]
    model.graph.node.extend([*nodes, pool, last, node("Add", ["colors", "noise"], ["compared"]), *rest])
    stored = {key: value.astype(np.float32) for key, value in weights.items()}
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in stored.items())
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe, labels to choose on and to report on, and images to calibrate on."""
    with_side(tmp_path / "model.onnx")
    for name in ("choose", "evaluate", "images"):
        (tmp_path / name).mkdir()
    squares.coco_annotations(tmp_path / "choose")
    squares.coco_annotations(tmp_path / "evaluate")
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), squares.image([(number, 2, 0), (5, number, 1)]))
    (tmp_path / "recipe.yaml").write_text("model: model.onnx\naccept: {annotations: evaluate}\n")
    return tmp_path


def fitted(folder: Path) -> FitReport:
    options = FitOptions(annotations=folder / "choose", images=folder / "images", force=True)
    return fit_folder(folder / "recipe.yaml", folder / "fitted", options)


def choices_of(folder: Path, name: str = "networks", model: str = "model.onnx") -> tuple[Choices, Network]:
    recipe = parse({"model": str(folder / model)}, "recipe")
    (folder / name).mkdir(exist_ok=True)
    settings = Settings(FitOptions(count=3), recipe, str(folder / "images"), folder / name)
    start = fit_network.base(recipe, settings)
    return Choices(start, settings, quiet), start


def stages_of(choices: Choices, start: Network, plan: Plan) -> list[tuple[str, Network]]:
    costs = Costs(choices.settings.folder / "costs.json")
    return list(Stages(choices.settings, costs, quiet).of(start, plan, choices))


@pytest.mark.long
def test_relu_2to4_and_int8_together_are_chosen_where_that_is_faster(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_search, "KINDS", (INT8, SPARSE, RELU))
    report = fitted(folder)
    assert [rung.name for rung in report.kept] == ["FP32", "FP16", "ReLU", "2:4", "INT8"]
    assert "layers with ReLU: 1" in report.kept[2].why and "2:4 layers: 1" in report.kept[3].why
    notes = {rung.name: rung.why for rung in report.rungs if rung.outcome == "not tried"}
    assert "no sparse INT8 kernel fits a layer with SiLU" in notes["2:4"]
    by_kind = {trial.name: trial.ms or 0.0 for trial in report.trials}
    assert report.result.ms == by_kind["INT8 + ReLU"] < 0.98 * by_kind["INT8"] and report.drop <= 1
    written = (folder / "fitted/model.onnx").read_bytes()
    layers = {layer.name: layer for layer in inspect(load(folder / "fitted/model.onnx")).layers}
    assert layers["side2"].sparse and not any(doubt.startswith("INT8") for doubt in layers["side2"].doubts)
    kinds = [each.op_type for each in onnx.load(folder / "fitted/model.onnx").graph.node]
    assert (kinds.count("Relu"), kinds.count("Sigmoid")) == (1, 2), "where it gains nothing, SiLU stays"

    for module, name in (
        (relu_places, "ReferenceOutputs"),
        (fit_changes, "changes"),
        (fit_stages, "relu_refitted"),
        (fit_stages, "reconstruct"),
        (fit_stages, "quantize_file"),
    ):
        monkeypatch.setattr(module, name, None)  # nothing is measured or made again
    fitted(folder)
    assert (folder / "fitted/model.onnx").read_bytes() == written


def test_a_plan_with_relu_is_predicted_as_the_network_that_it_becomes(folder: Path) -> None:
    choices, start = choices_of(folder)
    assert choices.obstacle(RELU) == "" and set(choices.relu) <= {"side1", "side2"}
    assert all(0 < swap.change < 1 and swap.sparse and not swap.int8 for swap in choices.relu.values())
    assert all(not plan.relu and not plan.sparse for plan in choices.plans((INT8,)))
    plan = choices.plans((INT8, RELU))[-1]
    assert plan.relu == tuple(choices.behind[name] for name in plan.sparse) != ()
    stages = stages_of(choices, start, plan)
    assert [kind for kind, _ in stages] == [RELU, SPARSE, INT8]
    assert stages[-1][1].ms == pytest.approx(plan.ms, abs=1e-6)
    relu = stages[0][1]
    assert relu.ms == pytest.approx(choices.ms), "ReLU alone saves nothing"
    plain = with_relu_at(choices.model, plan.relu)
    outputs = [_scores(model) for model in (choices.model, load(relu.model), plain)]
    errors = [float(np.square(each - outputs[0]).mean()) for each in outputs[1:]]
    assert errors[0] < 0.2 * errors[1], "layers are refitted to it"


def _scores(model: Model) -> NDArray[Any]:
    """Of the detector beside which the layers run, before they are clipped."""
    image = squares.image([(1, 2, 0), (5, 1, 1)])[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    image /= np.float32(255)
    (values,) = stream(model, lambda: [image], ["compared"])
    return values["compared"]


def test_it_is_deterministic_and_continues_after_an_interruption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices, start = choices_of(folder)
    plan = choices.plans((INT8, RELU))[-1]
    count, fit = 0, rebuild.fit_layer

    def stopping(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return fit(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rebuild, "fit_layer", stopping)
        with pytest.raises(KeyboardInterrupt):
            stages_of(choices, start, replace(plan, int8=(), sparse=()))
        ((_, continued),) = stages_of(choices, start, replace(plan, int8=(), sparse=()))
    assert count == 6, "five layers, of which one was interrupted"
    again, other = choices_of(folder, "again")
    assert dict(again.relu) == dict(choices.relu) and again.plans((INT8, RELU))[-1] == plan
    ((_, once),) = stages_of(again, other, replace(plan, int8=(), sparse=()))
    assert once.model.read_bytes() == continued.model.read_bytes()


def test_relu_evens_out_what_depthwise_layers_read_so_that_int8_takes_them(folder: Path) -> None:
    with_side(folder / "depthwise.onnx", depthwise=True)
    choices, start = choices_of(folder, model="depthwise.onnx")
    assert "side1" not in choices.int8 and choices.evened == {"side1": "side0"}
    swap = choices.relu["side0"]
    assert swap.change > 0 and set(swap.int8) == {"side1"} and not swap.sparse
    assert choices.plans((INT8,)) == [], "converting for the depthwise layer takes what INT8 saves"
    plan = choices.plans((INT8, RELU))[-1]
    assert set(plan.int8) == {"side0", "side1", "side2"} and plan.relu == (swap.place,)
    assert plan.change >= swap.change + swap.int8["side1"]
    _, network = stages_of(choices, start, plan)[-1]
    assert "side1" not in network.floats and network.ms == pytest.approx(plan.ms, abs=1e-6)
    _, network = stages_of(choices, start, replace(plan, int8=("side2",), sparse=()))[-1]
    assert "side1" in network.floats, "exactly the plan's layers are INT8"


def test_with_fewer_channels_too(folder: Path) -> None:
    choices, start = choices_of(folder)
    width = next(width for width in choices.widths if width.block.name == "side0" and width.count >= 32)
    both = choices.plans((INT8, RELU))[-1]
    stages = stages_of(choices, start, replace(both, int8=(), dropped=tuple(width.dropped)))
    assert [kind for kind, _ in stages] == [CHANNELS, RELU, SPARSE]
    kinds = [each.op_type for each in load(stages[1][1].model).graph.node]
    assert kinds.count("Relu") == len(both.relu)
    assert with_relu_at(choices.model, ["removed"]) is choices.model


@pytest.mark.parametrize(
    ("channels", "activation", "words"),
    [
        (16, "silu", "2:4 that needs ReLU saves 0.000 ms"),
        (64, "relu", "no layer has SiLU or HardSwish behind it"),
    ],
)
def test_the_reason_why_relu_is_not_worth_it(folder: Path, channels: int, activation: str, words: str) -> None:
    with_side(folder / "other.onnx", channels, activation)
    choices, _ = choices_of(folder, model="other.onnx")
    assert words in choices.obstacle(RELU)


def test_the_least_time_of_a_start_counts_what_relu_allows(folder: Path) -> None:
    choices, start = choices_of(folder)
    least = fit_network.least_milliseconds(start, choices.settings)
    sparse = choices.relu_gains["int8"]
    assert sparse and least == pytest.approx(choices.int8_ms - sum(sparse.values()))
    assert choices.ms == predicted(with_relu_at(choices.model, list(choices.behind.values())), choices.board, "fp16")
