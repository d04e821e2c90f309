"""Contents of a bundle: every file that the recipe needs, and a recipe that finds them wherever it is unpacked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import bundles
import cv2
import numpy as np
import onnx
import own_heads
import pytest
import squares
import yaml

from edgesparse.config import Deploy, load_recipe
from edgesparse.errors import ConfigError, SignatureError
from edgesparse.fleet import bundle, contents, keys
from edgesparse.fleet.bundle import BundleManifest
from edgesparse.runtime.labels.read import Labels
from edgesparse.version import VERSION


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    squares.detector(tmp_path / "squares.onnx")
    (tmp_path / "labels").mkdir()
    squares.coco_annotations(tmp_path / "labels")
    bundles.key(tmp_path)
    return tmp_path


def make(folder: Path, recipe: dict[str, Any] | None = None, **options: Any) -> BundleManifest:
    path = folder / "squares.yaml"
    path.write_text(yaml.safe_dump({"model": "squares.onnx", **(recipe or {})}))
    return contents.make(path, folder / "x.esb", keys.read_private(folder / "factory.key"), **options)


def unpacked(folder: Path) -> Path:
    out = folder / "unpacked"
    out.mkdir()
    with bundles.opened(folder / "x.esb") as source, source.complete(folder, lambda *_: None) as file:
        bundle.unpack(file, source.head, out, "x")
    return out


WHOLE: dict[str, Any] = {
    "classes": ["red", "green"],
    "build": {"backend": "onnxruntime", "batch": {"min": 1, "opt": 1, "max": 2}, "memory": "2 GB"},
    "calibrate": {"images": "labels", "count": 2},
    "accept": {"annotations": "labels/instances_val.json", "reference": "squares.onnx", "max_map_drop": 1},
    "deploy": {"count": 3, "needs": {"tensorrt": "10.3"}},
    "run": {"conf": {"default": 0.3, "red": 0.5}, "cameras": [{"name": "a", "source": "0", "classes": ["red"]}]},
}


def test_a_recipe_with_all_its_files(folder: Path) -> None:
    manifest = make(folder, WHOLE, version="1.4")
    out = unpacked(folder)
    before, after = load_recipe(folder / "squares.yaml"), load_recipe(out / "recipe.yaml")
    assert before.build_key() == after.build_key() and before.run == after.run
    assert after.accept.annotations == out / "labels" / "annotations.json"
    assert [path.name for path in sorted((out / "calibration").iterdir())] == ["00000.png", "00001.png"]
    assert manifest.version == "1.4" and manifest.name == "squares"
    assert manifest.deploy.needs == {"edgesparse": VERSION, "tensorrt": "10.3"}
    expected = json.loads((out / "selftest" / "expected.json").read_text())
    assert len(expected) == 3 and {box[5] for boxes in expected.values() for box in boxes} == {0}


def test_labels_of_any_format_travel_as_coco_json_in_pixels(folder: Path) -> None:
    """From a YOLO data set: a device needs neither its folders nor its text files."""
    original = json.loads((folder / "labels/instances_val.json").read_text())
    for image in original["images"]:
        boxes = [box for box in original["annotations"] if box["image_id"] == image["id"]]
        lines = [f"{b['category_id']} {(b['bbox'][0] + 4) / 64} {(b['bbox'][1] + 4) / 64} .125 .125" for b in boxes]
        (folder / "labels" / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines))
    (folder / "labels/data.yaml").write_text("val: .\nnames: [red, green]\n")
    make(folder, {**WHOLE, "accept": {"annotations": "labels/data.yaml", "max_map_drop": 1}})
    accept = load_recipe(unpacked(folder) / "recipe.yaml").accept
    assert accept.annotations is not None
    labels = Labels(accept.annotations, accept.images)
    boxes = sorted((box.image, *box.xywh) for box in labels.boxes)
    assert boxes == sorted((box["image_id"] + 1, *map(float, box["bbox"])) for box in original["annotations"])
    assert {image.size for image in labels.images} == {(64, 64)}


def test_same_files_same_bytes_and_newer_files_newer_version(folder: Path) -> None:
    first, data = make(folder, WHOLE), (folder / "x.esb").read_bytes()
    os.utime(folder / "squares.yaml", (first.time, first.time))
    second = contents.make(folder / "squares.yaml", folder / "x.esb", keys.read_private(folder / "factory.key"))
    assert (folder / "x.esb").read_bytes() == data and second == first
    os.utime(folder / "squares.onnx", (first.time + 60, first.time + 60))
    third = contents.make(folder / "squares.yaml", folder / "x.esb", keys.read_private(folder / "factory.key"))
    assert third.newer_than(first.version) and third.time == first.time + 60


def test_source_date_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    assert make(folder, images=folder / "labels").version == "2026.09.21.141320"


def test_external_weights_are_included(folder: Path) -> None:
    model = onnx.load(folder / "squares.onnx")
    onnx.save(model, folder / "squares.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    names = {file.name for file in make(folder, images=folder / "labels").files}
    assert {"model/squares.onnx", "model/weights.bin"} <= names


def test_missing_images_or_images_without_objects_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no images for the self-test: pass --images FOLDER"):
        make(folder)
    (folder / "black").mkdir()
    cv2.imwrite(str(folder / "black" / "0.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match="detects nothing on the 1 images of the self-test"):
        make(folder, images=folder / "black")
    assert not (folder / "x.esb").exists()


def test_an_unsupported_file_name_is_one_line(folder: Path) -> None:
    (folder / "squares.onnx").rename(folder / "my squares.onnx")
    with pytest.raises(ConfigError, match=r"my squares\.onnx cannot be stored as 'model/my squares\.onnx'"):
        make(folder, {"model": "my squares.onnx"}, images=folder / "labels")


def test_the_recipe_in_the_docs_is_valid(folder: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "fleet.md").read_text()
    recipe = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert {*recipe["deploy"]} == {*Deploy.model_fields}
    (folder / "some" / "images").mkdir(parents=True)
    (folder / "docs.yaml").write_text(yaml.safe_dump({"model": "squares.onnx", **recipe}))
    assert load_recipe(folder / "docs.yaml").deploy.needs == {"tensorrt": "10.3", "l4t": "36.4"}


SECRETS = (
    "rtsp://user:secret@10.0.0.7/stream",
    "rtsp://10.0.0.7/a?password=secret@1",
    "http://10.0.0.7/a.mjpg?usr=viewer&PWD=secret",
    "rtsp://10.0.0.7/user=admin_password=secret_channel=1",
    "rtsp://10.0.0.7/live?access_token=secret",
)


@pytest.mark.parametrize("source", SECRETS)
def test_passwords_are_refused(folder: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="contains a password, and a bundle is not secret") as error:
        make(folder, {"run": {"cameras": [{"name": "a", "source": source}]}}, images=folder / "labels")
    assert "secret@" not in str(error.value) and "=secret" not in str(error.value)


def test_other_parts_of_an_address_are_allowed(folder: Path) -> None:
    camera = {"name": "a", "source": "rtsp://10.0.0.7/cam/realmonitor?channel=1&subtype=0"}
    make(folder, {"run": {"cameras": [camera]}}, images=folder / "labels")


def test_versions_are_numbers(folder: Path) -> None:
    with pytest.raises(ConfigError, match="found 'v2', needed numbers separated by dots"):
        make(folder, version="v2", images=folder / "labels")


def test_the_code_of_a_head_travels_only_when_the_recipe_says_so(folder: Path) -> None:
    recipe = {**WHOLE, "head": own_heads.write(folder)}
    with pytest.raises(ConfigError, match=r"my_head.py:Squares is code.*set deploy.include_head to true"):
        make(folder, recipe)
    assert not (folder / "x.esb").exists()
    manifest = make(folder, {**recipe, "deploy": {"include_head": True}})
    assert "head/my_head.py" in {file.name for file in manifest.files} and manifest.deploy.include_head
    out = unpacked(folder)
    head, _, name = load_recipe(out / "recipe.yaml").head.rpartition(":")
    assert (Path(head), name) == (out / "head/my_head.py", "Squares")
    assert Path(head).read_text() == own_heads.SOURCE


def test_a_head_that_was_changed_on_the_way_is_refused(folder: Path) -> None:
    make(folder, {**WHOLE, "head": own_heads.write(folder), "deploy": {"include_head": True}})
    bundled = (folder / "x.esb").read_bytes()
    assert bundled.count(b"scores.argmax(0)") == 1
    (folder / "x.esb").write_bytes(bundled.replace(b"scores.argmax(0)", b"scores.argmin(0)"))
    with pytest.raises(SignatureError, match=r"head/my_head\.py is not what was signed"):
        unpacked(folder)
