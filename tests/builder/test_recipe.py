"""Recipes generated for a model: they parse, build, and mark guesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import squares

from edgesparse.builder.build import build
from edgesparse.builder.recipe import write_recipe
from edgesparse.builder.targets import open_detector
from edgesparse.config import Recipe, load_recipe
from edgesparse.errors import ConfigError, ModelError

pytestmark = pytest.mark.usefixtures("quick")


def test_a_written_recipe_builds_a_working_detector(tmp_path: Path) -> None:
    path = tmp_path / "squares.yaml"
    text = write_recipe(squares.detector(tmp_path / "squares.onnx"), path)
    assert path.read_text() == text
    recipe = load_recipe(path)
    assert (recipe.head, recipe.classes, recipe.input.size) == ("yolov8", "auto", (64, 64))
    package = build(recipe, tmp_path / "engines").package
    with open_detector(package) as detector:
        detections = detector(squares.image([(1, 2, 0), (5, 5, 1)]))
    assert [squares.NAMES[i] for i in detections.class_id] == ["red", "green"]


def test_every_commented_line_may_be_used_alone_and_with_the_others(tmp_path: Path) -> None:
    """Uncommenting removes only the # and the blank before a key. `cameras` takes the place of `source`."""
    path = tmp_path / "squares.yaml"
    text = write_recipe(squares.detector(tmp_path / "squares.onnx"), path)
    squares.coco_annotations(tmp_path)
    text = text.replace("labels/instances.json", "instances_val.json").replace("labels/images", ".")
    lines = text.replace("calibration_images", ".").splitlines()
    optional = [i for i, line in enumerate(lines) if line.startswith("  # ")]
    assert len(optional) >= 12

    def uncommented(*numbers: int) -> Recipe:
        used = [line.replace("# ", "", 1) if i in numbers else line for i, line in enumerate(lines)]
        path.write_text("\n".join(used))
        return load_recipe(path)

    for number in optional:
        uncommented(number)
    recipe = uncommented(*(i for i in optional if "cameras:" not in lines[i]))
    assert recipe.accept.min_map == 40 and recipe.accept.max_map_drop == 1 and recipe.accept.images == tmp_path
    assert recipe.build.memory == 2_000_000_000 and recipe.calibrate.images == tmp_path
    assert recipe.run.source == "0" and recipe.run.classes == ("red",)


@pytest.mark.parametrize(
    ("model", "recipe"),
    [("m.onnx", "m.yaml"), ("models/m.onnx", "recipes/m.yaml"), ("m.onnx", "deep/er/m.yaml"), ("a: #1, [b].onnx", "m")],
)
def test_the_models_path_is_relative_to_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, recipe: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (model, recipe):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    squares.detector(Path(model))
    write_recipe(Path(model), Path(recipe))
    assert load_recipe(Path(recipe)).model.resolve() == tmp_path / model


@pytest.mark.parametrize("names", [["traffic light", "a: b, c"], ["'", '"'], ["yes", "1"], ["é", "#2"]])
def test_names_with_a_meaning_in_yaml_are_quoted(tmp_path: Path, names: list[str]) -> None:
    write_recipe(squares.detector(tmp_path / "m.onnx", names=names), tmp_path / "m.yaml")
    assert load_recipe(tmp_path / "m.yaml").classes == "auto"
    assert build(load_recipe(tmp_path / "m.yaml"), tmp_path).package.manifest.detector.classes == tuple(names)


def test_a_model_without_names_gets_numbers_and_a_note(tmp_path: Path) -> None:
    text = write_recipe(squares.detector(tmp_path / "m.onnx", names=None), tmp_path / "m.yaml")
    assert "put the real names here" in text
    assert load_recipe(tmp_path / "m.yaml").classes == ("0", "1")


def test_an_unknown_number_of_classes_gets_cocos_names_as_a_guess(tmp_path: Path) -> None:
    squares.constant(tmp_path / "m.onnx", {"output0": np.zeros((1, 300, 6), np.float32)})
    text = write_recipe(tmp_path / "m.onnx", tmp_path / "m.yaml")
    assert "COCO's 80 are a guess" in text
    recipe = load_recipe(tmp_path / "m.yaml")
    assert (recipe.head, recipe.classes) == ("end2end", "coco")


def test_head_and_size_can_be_passed_for_a_model_that_leaves_them_open(tmp_path: Path) -> None:
    path = squares.detector(tmp_path / "m.onnx", size=("h", "w"))
    with pytest.raises(ModelError, match=r"no fixed height and width: set input.size in a recipe, which .*--size H W"):
        write_recipe(path, tmp_path / "m.yaml")
    write_recipe(path, tmp_path / "m.yaml", "yolov8", (64, 64))
    assert load_recipe(tmp_path / "m.yaml").input.size == (64, 64)


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    model = squares.detector(tmp_path / "m.onnx")
    (tmp_path / "m.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="already exists: pass --force"):
        write_recipe(model, tmp_path / "m.yaml")
    assert (tmp_path / "m.yaml").read_text() == "mine"
    write_recipe(model, tmp_path / "m.yaml", force=True)
    load_recipe(tmp_path / "m.yaml")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    model = squares.detector(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=r"cannot write .*m.yaml"):
        write_recipe(model, model / "m.yaml")
    with pytest.raises(ConfigError, match="cannot write"):
        write_recipe(model, tmp_path, force=True)
    assert list(tmp_path.iterdir()) == [model]


def test_on_standard_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    squares.detector(tmp_path / "m.onnx")
    assert "model: m.onnx" in write_recipe(Path("m.onnx"), Path("-"))
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("outputs", [{"a": np.zeros((1, 1000), np.float32)}, {"a": np.zeros((1, 3, 8, 8), np.float32)}])
def test_other_models_get_no_recipe(tmp_path: Path, outputs: dict[str, Any]) -> None:
    squares.constant(tmp_path / "m.onnx", outputs)
    assert onnx.load(tmp_path / "m.onnx").graph.node
    with pytest.raises(ModelError, match="no known head: found a "):
        write_recipe(tmp_path / "m.onnx", tmp_path / "m.yaml")
    assert not (tmp_path / "m.yaml").exists()
