"""`fit` searches again without the channels that cost more than their changes on the calibration images say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import squares
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgesparse.tasks import fit_search
from edgesparse.tasks.fit import fit_folder
from edgesparse.tasks.fit_network import FitOptions
from edgesparse.tasks.fit_report import FitReport

node = helper.make_node


def two_wide_layers(path: Path) -> None:
    """Half of `wide` sees red and half green; `side` adds a little noise to the scores, which do not need it."""
    rng = np.random.default_rng(0)
    colors = np.array([[1, -1, -1], [-1, 1, -1]], np.float32)
    weights: dict[str, NDArray[Any]] = {
        "wide": np.repeat(colors, 32, 0).reshape(64, 3, 1, 1),
        "compare": np.repeat(np.eye(2, dtype=np.float32) / 32, 32, 1).reshape(2, 64, 1, 1),
        "side": rng.standard_normal((64, 3, 3, 3)).astype(np.float32),
        "noise": rng.standard_normal((2, 64, 1, 1)).astype(np.float32) / 1000,
    }
    squares.detector(path)
    model = onnx.load(path)
    rest = [each for each in model.graph.node if each.output[0] not in ("mean", "compared")]
    del model.graph.node[:]
    for wide, narrow, pads in (("wide", "compare", 0), ("side", "noise", 1)):
        model.graph.node.extend(
            [
                node("Conv", ["images", wide], [f"{wide}_c"], wide, pads=[pads] * 4),
                node("Relu", [f"{wide}_c"], [f"{wide}_r"]),
                node("AveragePool", [f"{wide}_r"], [f"{wide}_p"], kernel_shape=[8, 8], strides=[8, 8]),
                node("Conv", [f"{wide}_p", narrow], [narrow + "_c"], narrow),
            ]
        )
    model.graph.node.extend([node("Add", ["compare_c", "noise_c"], ["compared"]), *rest])
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe, labels to choose on and to report on, and images to calibrate on, on which everything is red."""
    two_wide_layers(tmp_path / "model.onnx")
    for name in ("choose", "evaluate", "red"):
        (tmp_path / name).mkdir()
    squares.coco_annotations(tmp_path / "choose")
    squares.coco_annotations(tmp_path / "evaluate")
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"red/{number}.png"), squares.image([(number, 2, 0), (5, number, 0), (7, 6, 0)]))
    (tmp_path / "recipe.yaml").write_text("model: model.onnx\naccept: {annotations: evaluate}\n")
    return tmp_path


def fitted(folder: Path) -> FitReport:
    options = FitOptions(annotations=folder / "choose", images=folder / "red", force=True)
    return fit_folder(folder / "recipe.yaml", folder / "fitted", options)


def test_it_searches_again_without_the_channels_that_cost_too_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the green half of `wide` nothing changes on red images, so that every plan begins there."""
    report = fitted(folder)
    outcomes = [trial.outcome for trial in report.trials if trial.name == "INT8 + channels"]
    assert len(outcomes) > 1 and set(outcomes[:-1]) == {"dropped"} and outcomes[-1] == "chosen"
    model = onnx.load(folder / "fitted/model.onnx")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    widths = {each.name: shapes[each.input[1]][0] for each in model.graph.node if each.op_type == "Conv"}
    assert widths["wide"] == 64, "those that see green are there"
    assert widths.get("side", 0) < 64
    assert report.kept[-1].score == report.kept[-1].evaluated == report.kept[0].score

    monkeypatch.setattr(fit_search, "ROUNDS", 1)
    once = fitted(folder)
    outcomes = [trial.outcome for trial in once.trials if trial.name == "INT8 + channels"]
    assert outcomes and set(outcomes) == {"dropped"} and once.kept[-1].name == "INT8"
