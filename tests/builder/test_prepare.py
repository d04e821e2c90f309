"""Determining what a model detects and how, without building it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import squares
from onnx import numpy_helper

from edgesparse.builder import build, targets
from edgesparse.builder.prepare import detector_spec, prepare, with_batch
from edgesparse.config import load_recipe, parse
from edgesparse.errors import ConfigError, ModelError
from edgesparse.model import load as models


def test_a_spec_is_what_a_build_would_have(tmp_path: Path) -> None:
    recipe = parse({"model": str(squares.detector(tmp_path / "squares.onnx"))}, "recipe")
    spec = detector_spec(models.load(recipe.model), recipe)
    assert spec == build.build(recipe, tmp_path / "engines").package.manifest.detector
    assert (spec.head, spec.classes, spec.input.size) == ("yolov8", squares.NAMES, (64, 64))


def test_the_recipes_classes_and_input_are_honoured(tmp_path: Path) -> None:
    squares.detector(tmp_path / "squares.onnx")
    (tmp_path / "r.yaml").write_text(
        "model: squares.onnx\nclasses: [a, b]\ninput: {colour: bgr, scale: 1, mean: [1, 2, 3], std: [4, 5, 6]}\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    spec = detector_spec(models.load(recipe.model), recipe)
    assert spec.classes == ("a", "b") and spec.input.colour == "bgr"
    assert (spec.input.scale, spec.input.mean, spec.input.std) == (1, (1, 2, 3), (4, 5, 6))


def test_a_model_of_open_size_needs_the_recipes(tmp_path: Path) -> None:
    model = models.load(squares.detector(tmp_path / "m.onnx", size=("h", "w")))
    with pytest.raises(ModelError, match=r"no fixed height and width: set input.size"):
        detector_spec(model, targets.recipe_of(tmp_path / "m.onnx"))
    sized = parse({"model": str(tmp_path / "m.onnx"), "input": {"size": [64, 64]}}, "recipe")
    assert detector_spec(model, sized).input.size == (64, 64)


def test_names_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    recipe = parse({"model": str(squares.detector(tmp_path / "m.onnx")), "classes": ["a", "b", "c"]}, "recipe")
    with pytest.raises(ConfigError, match="found 3 names, needed 2"):
        detector_spec(models.load(recipe.model), recipe)


def test_nothing_is_written_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = targets.recipe_of(squares.detector(tmp_path / "m.onnx"))
    detector_spec(models.load(recipe.model), recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_weights_that_are_not_finite_are_refused_by_layer(tmp_path: Path) -> None:
    path = squares.detector(tmp_path / "squares.onnx")
    model = models.load(path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[3] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    models.save(model, path)
    with pytest.raises(ModelError, match="weights hold NaN or infinity"):
        prepare(parse({"model": str(path)}, ""), tmp_path)


def test_a_branch_that_reads_the_image_and_the_domain_ai_onnx_are_prepared(cases: Path, tmp_path: Path) -> None:
    for name in ("if_reads_image", "domain_ai_onnx"):
        prepared = prepare(parse({"model": str(cases / f"{name}.onnx")}, ""), tmp_path)
        assert prepared.spec.input.size == (64, 64)


@pytest.mark.parametrize(
    ("sections", "batch"),
    [
        ({"run": {"tiles": 640}}, 9),  # of a frame of 1920 x 1080
        ({"run": {"tiles": 640}, "build": {"batch": 2}}, 2),
        ({"run": {"source": "0"}}, 1),
        ({"run": {"cameras": [{"name": "a", "source": "0", "size": "1280x720", "tiles": 640}]}}, 7),
        ({"run": {"tiles": 640, "cameras": [{"name": "a", "source": "0", "tiles": "none"}]}}, 1),
        ({"run": {"tiles": {"regions": [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]}}}, 3),
    ],
)
def test_the_build_knows_the_batch_that_tiles_need(tmp_path: Path, sections: Any, batch: int) -> None:
    path = squares.detector(tmp_path / "squares.onnx", batch="n")
    recipe = with_batch(parse({"model": str(path), **sections}, "recipe"))
    assert recipe.build.batch.opt == batch and with_batch(recipe) == recipe


def test_tiles_make_an_engine_of_that_batch(tmp_path: Path) -> None:
    path = squares.detector(tmp_path / "squares.onnx")
    recipe = parse({"model": str(path), "run": {"tiles": {"regions": [[0, 0, 0.5, 0.5]]}}}, "recipe")
    package = build.build(recipe, tmp_path / "engines").package
    assert package.manifest.inputs[0].shape[0] == 2
    with targets.open_detector(package) as detector:
        detector(np.zeros((128, 128, 3), np.uint8))
        assert detector.images == (2, 1)


def test_a_network_whose_batch_cannot_change_gets_tiles_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = squares.constant(tmp_path / "constant.onnx", {"output0": np.zeros((1, 84, 6), np.float32)})
    fields = {"model": str(path), "head": "end2end", "classes": ["a"], "run": {"tiles": {"regions": [[0, 0, 0.5, 1]]}}}
    recipe = parse(fields, "recipe")
    assert with_batch(recipe) == recipe
    (record,) = caplog.records
    assert "are 2 images, which the engine gets one by one: its output output0 1x84x6" in record.getMessage()
