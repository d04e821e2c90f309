"""Recipes: a mistake is reported in one line with its path; a missing key has its default."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesparse.config import (
    Input,
    InputSpec,
    Recipe,
    Run,
    load_recipe,
    override,
    parse,
)
from edgesparse.errors import ConfigError
from edgesparse.head_table import HEAD_ALIASES


def wrong(values: dict[str, Any]) -> str:
    """Return the one-line message of the error."""
    with pytest.raises(ConfigError) as caught:
        parse({"model": "m.onnx", **values}, "r.yaml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("r.yaml: ")
    return message.removeprefix("r.yaml: ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clases": ["a"]}, "unknown key 'clases': did you mean 'classes'?"),
        ({"input": {"letter_box": "centre"}}, "unknown key 'input.letter_box': did you mean 'letterbox'?"),
        ({"prepare": {"simplfy": True}}, "unknown key 'prepare.simplfy': did you mean 'simplify'?"),
        ({"build": {"bacth": 1}}, "unknown key 'build.bacth': did you mean 'batch'?"),
        ({"accept": {"minmap": 1}}, "unknown key 'accept.minmap': did you mean 'min_map'?"),
        ({"run": {"max-det": 1}}, "unknown key 'run.max-det': did you mean 'max_det'?"),
        ({"prepare": {"zzz": 1}}, "unknown key 'prepare.zzz': known here are simplify"),
        ({"run": {"iuo": 2, "conf": 2}}, "unknown key 'run.iuo': did you mean 'iou'? (and 1 more)"),
    ],
)
def test_an_unknown_key_is_reported_with_its_path_and_the_most_similar_key(
    values: dict[str, Any], message: str
) -> None:
    assert wrong(values) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run": {"classes": []}}, "run.classes: found [] (a list), needed at least 1 of them"),
        ({"classes": 5}, "classes: found 5 (a whole number), needed text"),
        ({"classes": ["a", True]}, "classes.1: found True (true/false), needed text"),
        ({"head": "yolo8"}, "head: found 'yolo8': did you mean 'yolov8'?"),
        ({"input": 640}, "input: found 640 (a whole number), needed a mapping"),
        ({"input": {"size": "640"}}, "input.size: found '640' (text), needed a list"),
        ({"input": {"size": [640]}}, "'input.size.1' is missing"),
        ({"input": {"size": [1, 2, 3]}}, "input.size: found [1, 2, 3] (a list), needed at most 2 of them"),
        ({"input": {"size": 0}}, "input.size.0: found 0 (a whole number), needed more than 0 (and 1 more)"),
        ({"input": {"letterbox": "center"}}, "input.letterbox: found 'center': did you mean 'centre'?"),
        ({"input": {"pad": 300}}, "input.pad: found 300 (a whole number), needed at most 255"),
        ({"input": {"mean": [0, 0]}}, "'input.mean.2' is missing"),
        ({"prepare": {"simplify": "yes"}}, "prepare.simplify: found 'yes' (text), needed true or false"),
        ({"build": {"batch": 1.5}}, "build.batch: found 1.5 (a number), needed a whole number, or a range as {min"),
        ({"build": {"batch": 0}}, "build.batch: found 0 (a whole number), needed 1 to 64"),
        ({"build": {"batch": True}}, "build.batch: found True (true/false), needed a whole number, or"),
        ({"build": {"batch": {"opt": 4}}}, "'build.batch.max' is missing"),
        ({"build": {"batch": {"opt": 4, "max": 65}}}, "build.batch.max: found 65 (a whole number), needed at most"),
        (
            {"build": {"batch": {"opt": 4, "max": 2}}},
            "build.batch: found {'opt': 4, 'max': 2} (a mapping), needed min, o",
        ),
        ({"build": {"batch": {"opt": 4, "maxi": 8}}}, "unknown key 'build.batch.maxi': did you mean 'max'?"),
        ({"build": {"backend": "tensorflow"}}, "build.backend: found 'tensorflow': did you mean 'tensorrt'?"),
        ({"run": {"conf": 2}}, "run.conf: found 2 (a whole number), needed at most 1"),
        ({"run": {"conf": {"dog": "x"}}}, "run.conf.dog: found 'x' (text), needed a number"),
        ({"input": {"std": 0}}, "input.std.0: found 0 (a whole number), needed more than 0"),
        ({"input": {"scale": float("nan")}}, "input.scale: found nan (a number), needed a finite number"),
        ({"model": 5}, "model: found 5 (a whole number), needed text"),
    ],
)
def test_a_wrong_value_is_reported_with_its_path_and_what_is_needed(values: dict[str, Any], message: str) -> None:
    assert wrong(values).startswith(message)


def test_a_missing_model_key_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"^r.yaml: 'model' is missing$"):
        parse({}, "r.yaml")


words = st.text("ab.é \n", max_size=4)
days = st.just(date(2026, 1, 1))
keys = words | st.integers() | st.booleans() | st.none() | days
leaves = keys | st.floats()
anything = leaves | st.lists(leaves, max_size=3) | st.dictionaries(keys, leaves, max_size=3)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "else"]), anything, max_size=4))
def test_any_yaml_value_is_a_recipe_or_a_one_line_error(values: dict[str, Any]) -> None:
    try:
        recipe = parse(values, "r.yaml")
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(recipe, Recipe)


def test_an_empty_section_has_its_defaults() -> None:
    """As in YAML in which all lines below a key are comments."""
    values = dict.fromkeys(("input", "prepare", "build", "accept", "run"))
    assert parse({"model": "m.onnx", **values}, "r.yaml") == parse({"model": "m.onnx"}, "r.yaml")


@pytest.mark.parametrize(("alias", "head"), HEAD_ALIASES.items())
def test_a_head_may_be_named_after_a_detector_that_has_it(alias: str, head: str) -> None:
    assert parse({"model": "m.onnx", "head": alias}, "r.yaml").head == head


def test_one_number_is_a_square_and_the_same_for_every_channel() -> None:
    resolved = parse({"model": "m.onnx", "input": {"size": 640, "mean": 0.5, "std": [1, 2, 3]}}, "r.yaml").input
    assert (resolved.size, resolved.mean, resolved.std) == ((640, 640), (0.5, 0.5, 0.5), (1, 2, 3))


def test_the_recipes_input_takes_precedence_over_the_convention() -> None:
    convention = InputSpec(size=(640, 640), colour="bgr")
    resolved = Input(pad=0, scale=1.0).resolve(convention)
    assert resolved == InputSpec(size=(640, 640), colour="bgr", pad=0, scale=1.0)


# Files


def written(folder: Path, text: str) -> Path:
    (folder / "m.onnx").touch()
    (folder / "labels.json").touch()
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_paths_are_relative_to_the_recipes_folder(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "model: m.onnx\naccept: {annotations: labels.json, min_map: 1}"))
    assert recipe.model == tmp_path / "m.onnx" and recipe.accept.annotations == tmp_path / "labels.json"
    assert recipe.accept.images is None and recipe.accept.min_map == 1


def test_labels_may_be_a_folder_as_they_may_for_an_option(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, "model: m.onnx\naccept: {annotations: .}")).accept.annotations == tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: n.onnx", "recipe.yaml: model: no file n.onnx: did you mean 'm.onnx'?"),
        ("model: away/m.onnx", "model: no file away/m.onnx (there is no folder "),
        ("model: .", "(it is a folder)"),
        ("model: ''", "recipe.yaml: model: "),
        ("model: m.onnx\naccept: {annotations: label.json}", "accept.annotations: no file label.json: did you mean"),
        ("model: m.onnx\naccept: {images: images}", "accept.images: no folder images"),
        ("model: m.onnx\naccept: {images: m.onnx}", "accept.images: no folder m.onnx"),
        ("model: m.onnx\naccept: {reference: r.onnx}", "accept.reference: no file r.onnx"),
        ("model: m.onnx\nclasses: names.txt", "cannot read 'names.txt': "),
        ("model: m.onnx\nclasses: labels.json", "labels.json has no class names"),
        ("model: m.onnx\nclases: auto", "unknown key 'clases'"),
        ("", "found nothing, needed a mapping with at least 'model:'"),
        ("- m.onnx", "found a list, needed a mapping"),
        ("model: m.onnx\nmodel: [", "recipe.yaml is not valid YAML: "),
        ("model: m.onnx\nrun: &a {conf: *a}", "recipe.yaml is not valid YAML: line 2, column 16: an alias"),
        ("model: m.onnx\n? [1, 2]\n: 3", "recipe.yaml"),
        ("\0", "recipe.yaml is not valid YAML: "),
    ],
)
def test_a_recipe_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(written(tmp_path, text))


def test_a_recipe_that_is_missing_or_not_text(tmp_path: Path) -> None:
    assert refused(tmp_path / "r.yaml") == "no recipe r.yaml: write one with 'edgesparse recipe MODEL.onnx -o r.yaml'"
    assert "cannot read recipe" in refused(tmp_path)
    (tmp_path / "r.yaml").write_bytes(b"model: \xff\xfe")
    assert refused(tmp_path / "r.yaml") == "r.yaml is not valid YAML: line 1 is not UTF-8 text"


@pytest.mark.parametrize("names", ["[no, on, 12:30]", "['0', 1e3x, 2024-01-01]"])
def test_class_names_that_yaml_1_1_would_convert_stay_text(tmp_path: Path, names: str) -> None:
    recipe = load_recipe(
        written(tmp_path, f"model: m.onnx\nclasses: {names}\nrun: {{conf: {{no: 0.5, default: 0.4}}}}")
    )
    assert recipe.classes == tuple(name.strip(" '") for name in names.strip("[]").split(","))
    assert recipe.run.conf == {"no": 0.5, "default": 0.4}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[true]", "classes.0: found True (true/false), needed text"),
        ("[null]", "classes.0: found None (nothing), needed text"),
        ("[1.5]", "classes.0: found 1.5 (a number), needed text"),
        ("[[a]]", "classes.0: found ['a'] (a list), needed text"),
        ("[0, 1]", "classes.0: found 0 (a whole number), needed text"),
    ],
)
def test_class_names_that_are_not_text_are_refused(tmp_path: Path, names: str, message: str) -> None:
    assert message in refused(written(tmp_path, f"model: m.onnx\nclasses: {names}"))


@pytest.mark.parametrize("text", ["model: m.onnx\nclasses: NAME.txt", "model: m.onnx\nclasses: NAME.yaml"])
def test_a_file_name_of_absurd_length_is_quoted_in_part(tmp_path: Path, text: str) -> None:
    assert len(refused(written(tmp_path, text.replace("NAME", "a" * 5000)))) < 800


def test_a_filter_takes_class_ids(tmp_path: Path) -> None:
    cameras = "cameras: [{name: a, source: 0, classes: [2, dog]}]"
    recipe = load_recipe(written(tmp_path, f"model: m.onnx\nrun: {{classes: [0, 2, person], {cameras}}}"))
    assert recipe.run.classes == ("0", "2", "person")
    assert recipe.run.cameras[0].classes == ("2", "dog")
    for names in ("[true]", "[1.5]", "[-1.0]", "[null]", "0"):
        assert "run.classes" in refused(written(tmp_path, f"model: m.onnx\nrun: {{classes: {names}}}"))


@pytest.mark.parametrize("key", ["x]", "function-plain[y]", "str", "float", "", "\\x1b[2J", "é" * 500])
def test_unknown_keys_are_named_whatever_they_are(tmp_path: Path, key: str) -> None:
    for text in (f'model: m.onnx\n"{key}": 1', f'model: m.onnx\nrun: {{"{key}": 1}}'):
        message = refused(written(tmp_path, text))
        assert "unknown key '" in message and message.isprintable() and len(message) < 400


@pytest.mark.parametrize("size", ["9" * 400 + " GB", "1.2.3 GB", "-1 GB", ". GB", "1e3 GB"])
def test_invalid_memory_sizes_are_refused(tmp_path: Path, size: str) -> None:
    message = refused(written(tmp_path, f"model: m.onnx\nbuild: {{memory: {size}}}"))
    assert "build.memory: found" in message and len(message) < 250


@pytest.mark.parametrize("value", ['"a\\0b.onnx"', "x" * 5000])
def test_impossible_file_names_are_refused(tmp_path: Path, value: str) -> None:
    assert "model: no file" in refused(written(tmp_path, f"model: {value}"))


# On the command line


def test_values_on_the_command_line_take_precedence() -> None:
    run = Run(conf={"default": 0.5, "dog": 0.25}, iou=0.5, classes=("dog",), source="0")
    assert override(run, {"conf": None, "source": None}) == run
    overridden = override(run, {"conf": 0.25, "classes": "person, traffic light", "source": "1"})
    assert overridden == Run(conf=0.25, iou=0.5, classes=("person", "traffic light"), source="1")


def test_invalid_values_on_the_command_line_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^command line: run.iou: found 2.0 \(a number\), needed at most"):
        override(Run(), {"iou": 2.0})


# What determines whether a package must be built again

BASE: dict[str, Any] = {"model": "m.onnx", "accept": {"annotations": "a.json", "min_map": 10}}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"run": {"conf": 0.5, "source": "0"}}, True),
        ({"model": "elsewhere/m.onnx"}, True),
        ({"accept": {"annotations": "elsewhere/a.json", "min_map": 10}}, True),
        ({"accept": {"annotations": "a.json", "min_map": 11}}, False),
        ({"head": "yolov5"}, False),
        ({"classes": ["a"]}, False),
        ({"input": {"size": 64}}, False),
        ({"input": {"pad": 0}}, False),
        ({"prepare": {"simplify": False}}, False),
        ({"build": {"batch": 2}}, False),
        ({"build": {"batch": 1}}, True),
        ({"build": {"batch": {"opt": 1, "max": 2}}}, False),
        ({"build": {"threads": 1}}, False),
    ],
)
def test_the_build_key_changes_with_everything_that_determines_the_build(change: dict[str, Any], same: bool) -> None:
    keys = {parse(yaml.safe_load(yaml.safe_dump({**BASE, **values})), "r").build_key() for values in ({}, change)}
    assert (len(keys) == 1) == same
