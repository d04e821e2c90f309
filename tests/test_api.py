"""The public Python API: its names, and what its functions accept."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from PIL import Image

import edgesparse
from edgesparse.errors import ConfigError
from edgesparse.tasks import keywords
from edgesparse.tasks.evaluate import EvaluateOptions
from edgesparse.tasks.prune import PruneOptions
from edgesparse.tasks.quantize import QuantizeOptions

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return squares.detector(tmp_path / "squares.onnx")


def test_importing_is_cheap() -> None:
    program = (
        "import sys, edgesparse; dir(edgesparse); print([m for m in ('numpy', 'cv2', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_running_a_package_imports_nothing_that_builds_one() -> None:
    unused = ["onnx", "edgesparse.builder.build", "edgesparse.tasks", "edgesparse.compress", "edgesparse.demo.scene"]
    unused += ["yaml", "urllib.request", "multiprocessing", "edgesparse.stream.recording", "edgesparse.runtime.labels"]
    used = "edgesparse.load, edgesparse.Loop, edgesparse.open_sinks"
    program = f"import sys, edgesparse; {used}; print([m for m in {unused} if m in sys.modules])"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # it imports some
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=bare)
    assert done.stdout == "[]\n"


def test_an_engine_is_loaded_before_what_runs_it_is_imported() -> None:
    """So that a program may import it in parallel, as apps/detect.py does."""
    later = ("cv2", "edgesparse.stream", "edgesparse.runtime.detector")
    program = f"import sys, edgesparse; edgesparse.load; print([m for m in {later} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_exists_and_is_documented() -> None:
    for name in edgesparse.__all__:
        value = getattr(edgesparse, name)
        assert value.__doc__ and name in dir(edgesparse)
    with pytest.raises(AttributeError, match="has no attribute 'lood'"):
        edgesparse.lood  # noqa: B018


def test_a_recipe_object_is_built_and_scored(model: Path, images: Path) -> None:
    recipe = edgesparse.Recipe(model=model)
    steps = []
    package = edgesparse.build(recipe, progress=lambda step, done, total: steps.append(step))
    assert package.manifest.detector.classes == ("red", "green") and steps
    assert edgesparse.evaluate(package, images).map == pytest.approx(100)
    assert edgesparse.evaluate(model, images / "instances_val.json", images=images).map50 == pytest.approx(100)
    with edgesparse.load(package, conf=0.5) as detector:
        assert isinstance(detector, edgesparse.Detector) and detector.run.conf == 0.5
    (model.parent / "squares.yaml").write_text("model: squares.onnx")
    assert edgesparse.Recipe.load(model.with_suffix(".yaml")).model == model


@pytest.mark.parametrize("batch", [1, 5])
def test_large_images_are_scored_with_tiles(model: Path, tmp_path: Path, batch: int) -> None:
    """Those of the recipe, or those that are asked for; each object counts once, as when frames are detected."""
    labels = squares.large_annotations(tmp_path)
    recipe = tmp_path / "large.yaml"
    recipe.write_text(f"model: {model.name}\nrun: {{tiles: '64,0'}}\nbuild: {{batch: {batch}}}\n")
    package = edgesparse.build(recipe)
    tiled, whole = edgesparse.evaluate(package, labels), edgesparse.evaluate(package, labels, tiles="none")
    assert tiled.map == pytest.approx(100) and tiled.tiles
    assert whole.map < 20 and not whole.tiles
    assert edgesparse.evaluate(model, labels, tiles={"size": 64, "overlap": 0}).map == pytest.approx(100)
    with pytest.raises(ConfigError, match=r"run\.tiles: found 'many'"):
        edgesparse.evaluate(package, labels, tiles="many")
    with edgesparse.load(package, conf=0.5) as detect:
        assert len(detect(tmp_path / "large.png")) == 6


def test_the_frame_loop(model: Path, images: Path) -> None:
    with edgesparse.load(model) as detector, edgesparse.open_source(images) as source:
        assert isinstance(source, edgesparse.Source)
        with edgesparse.open_sinks(detector.spec.classes, coco=Path("boxes.json")) as sinks:
            assert all(isinstance(sink, edgesparse.Sink) for sink in sinks)
            assert edgesparse.run(source, detector, sinks).frames == 4
        source.reopen()
        assert all(isinstance(frame, edgesparse.Frame) for frame in source)


def test_a_file_an_array_a_pillow_image_and_lists_give_the_same(model: Path, images: Path) -> None:
    path = images / "0.png"
    array = np.asarray(cv2.imread(str(path)), np.uint8)
    with edgesparse.load(model) as detector:
        expected = detector(array)
        assert len(expected) > 0 and expected.names[0] in ("red", "green")
        alone: list[Any] = [str(path), path, Image.open(path), Image.open(path).convert("RGBA")]
        for image in alone:
            np.testing.assert_array_equal(detector(image).xyxy, expected.xyxy)
        several: list[Any] = [[str(path), array, Image.open(path)], (path, path), np.stack([array, array, array])]
        for batch in several:
            results = detector(batch)
            assert len(results) == len(batch)
            for result in results:
                np.testing.assert_array_equal(result.xyxy, expected.xyxy)
        assert detector([]) == []


def test_pillow_images_are_rotated_by_their_exif_orientation(model: Path, images: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / "0.png").convert("RGB").resize((96, 64)).save(turned, exif=exif, quality=100)
    with edgesparse.load(model) as detector:
        np.testing.assert_allclose(detector(Image.open(turned)).xyxy, detector(turned).xyxy, atol=1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (7, "cannot detect in int: needed an image file, a BGR array"),
        (None, "cannot detect in NoneType"),
        ({"a": 1}, "cannot detect in dict"),
        (b"bytes", "cannot detect in bytes"),
        ("nowhere.jpg", "no image nowhere.jpg"),
        ("0", "cannot detect in a stream: open it with edgesparse.open_source"),
        ("rtsp://user:secret@host/x", "cannot detect in a stream: open it with"),
        (".", ". is a folder: open it with edgesparse.open_source"),
        ("squares.onnx", "cannot read the image squares.onnx: damaged, or not an image"),
        (np.zeros((8, 8), np.uint8), r"frame is \(8, 8\) uint8: needed H x W x 3 uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"frame is \(8, 8, 4\) uint8: needed"),
        (np.zeros((8, 8, 3), np.float32), r"frame is \(8, 8, 3\) float32: needed"),
        (np.zeros((3, 8, 8), np.uint8), r"frame is \(3, 8, 8\) uint8: needed"),
        (np.zeros((0, 8, 3), np.uint8), r"frame is \(0, 8, 3\) uint8: needed"),
        (["nowhere.jpg"], "no image nowhere.jpg"),
        ([None], "cannot detect in NoneType"),
    ],
)
def test_anything_but_an_image_is_refused_in_one_line(model: Path, image: Any, message: str) -> None:
    with edgesparse.load(model) as detector:
        with pytest.raises(edgesparse.EdgeSparseError, match=message) as error:
            detector(image)
        assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_prune_inspect_and_quantize_return_reports(model: Path, images: Path) -> None:
    options = {"share": 1.0, "images": images}
    with pytest.raises(ConfigError, match="--share needs --method reconstruct"):
        edgesparse.prune(model, "out.onnx", share=1.0)
    deep = squares.chained(model.parent / "deep.onnx")
    assert {layer.state for layer in edgesparse.inspect(deep).layers} == {"dense", "ineligible"}
    pruned = edgesparse.prune(deep, "pruned.onnx", method="reconstruct", **options)  # type: ignore[arg-type]
    assert pruned.output == Path("pruned.onnx") and pruned.report.as_dict()["share_of_eligible_macs"] == 1
    assert "sparse" in {layer.state for layer in edgesparse.inspect("pruned.onnx").layers}
    quantized = edgesparse.quantize(deep, "int8.onnx", images=images, count=4)
    assert quantized.written == (Path("int8.onnx"),) and quantized.report.share > 0
    with pytest.raises(edgesparse.EdgeSparseError, match=r"int8.onnx already exists"):
        edgesparse.quantize(deep, "int8.onnx", images=images)
    predicted = edgesparse.inspect(deep, device="orin-nano-8gb")
    assert predicted.predictions and predicted.as_dict()["prediction"]


def test_keywords_are_the_fields_of_the_options() -> None:
    for typed, options in (
        (keywords.PruneKeywords, PruneOptions),
        (keywords.QuantizeKeywords, QuantizeOptions),
        (keywords.EvaluateKeywords, EvaluateOptions),
    ):
        hints = {name: hint.__forward_arg__ for name, hint in typed.__annotations__.items()}
        needed = {field.name: field.type for field in fields(options)}
        assert {name: hint.replace("Required[str | Path]", "str | Path") for name, hint in hints.items()} == needed


def test_names_for_a_recipe_object_and_a_folder_called_demo(model: Path, tmp_path: Path) -> None:
    unnamed = squares.detector(tmp_path / "unnamed.onnx", names=None)
    (tmp_path / "names.txt").write_text("a\nb\n")
    package = edgesparse.build(edgesparse.Recipe(model=unnamed), names="names.txt")
    assert package.manifest.detector.classes == ("a", "b")
    (tmp_path / "demo").mkdir()
    assert len(edgesparse.inspect("demo").layers) > 10
    with pytest.raises(edgesparse.EdgeSparseError, match=r"unnamed is a folder: needed a recipe"):
        (tmp_path / "unnamed").mkdir()
        edgesparse.build("unnamed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "--count: found 0, needed 1 or more"),
        ({"max_drop": float("nan")}, "--max-drop: found nan, needed 0 to 100 points"),
        ({"share": 1.5}, "--share: found 1.5, needed more than 0 and at most 1"),
        ({"method": "random"}, "--method: found 'random'"),
        ({"layers": "side1"}, "--layers: found 'side1', needed a list of names, or 'auto'"),
        ({"layers": ["auto", "side1"]}, "--layers auto chooses layers: leave out the names"),
        ({"layers": ["side1"], "share": 0.5}, "--layers side1 names what to prune"),
        ({"annotated_images": "images"}, "--annotated-images needs --annotations"),
        ({"images": "nowhere"}, "no source nowhere"),
        ({"device": "nano"}, "nano"),
    ],
)
def test_contradictory_options_are_refused(images: Path, model: Path, options: Any, message: str) -> None:
    squares.chained(model)
    with pytest.raises(edgesparse.EdgeSparseError, match=message):
        edgesparse.prune(model, "out.onnx", **{"method": "reconstruct", "images": images, **options})
    assert not Path("out.onnx").exists()
