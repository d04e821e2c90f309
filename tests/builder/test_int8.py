"""INT8 in every form from one look at the images, and from none the second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from onnx import helper, numpy_helper

from edgesparse.builder import int8
from edgesparse.builder.build import build
from edgesparse.builder.int8 import hash_of, quantise, write_images
from edgesparse.config import DetectorSpec, InputSpec, parse
from edgesparse.errors import AccuracyGateFailed, BuildError, CalibrationError, ConfigError
from edgesparse.int8 import calibration_table
from edgesparse.model import load as models
from edgesparse.sparsity.inspect import inspect

LOOK = InputSpec(size=(64, 64))


@pytest.fixture
def job(sparse_model: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path / "state"))
    spec = DetectorSpec(head="yolov8", classes=("red", "green"), input=LOOK)
    wanted = {"images": str(labels.parent), "count": 4}
    (tmp_path / "work").mkdir()
    said = {"onnx": str(sparse_model), "folder": str(tmp_path / "work"), "calibrate": wanted, "accept": {}, "batch": 1}
    return {**said, "spec": spec.model_dump_json()}


def quiet(step: str, done: int, total: int) -> None:
    """Nothing is shown."""


def test_every_form_is_written_and_2to4_stays(job: dict[str, Any]) -> None:
    said = quantise(job, quiet)
    written = {name: models.load(Path(said[name])) for name in ("fuse", "sparse", "even")}
    pairs = {name: sum(node.op_type == "QuantizeLinear" for node in m.graph.node) for name, m in written.items()}
    assert pairs["even"] == 0 < pairs["fuse"] and pairs["sparse"] > 0
    for model in written.values():
        states = {layer.name: layer.state for layer in inspect(model).layers}
        assert (states["conv1"], states["conv2"]) == ("sparse", "sparse")
    table = calibration_table.read(Path(said["table"]).read_bytes())
    assert {"wide0", "wide1", "wide2"} <= set(table.scales)
    assert "output0" not in table.scales
    assert said["notes"][0].startswith("INT8: 4 images; ")


def test_it_is_made_once_on_a_device_unless_something_changes(
    job: dict[str, Any], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quantise(job, quiet)
    files = {name: Path(first[name]).read_bytes() for name in ("fuse", "sparse", "even", "table")}

    def again(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    with monkeypatch.context() as patched:
        patched.setattr(int8, "recover", again)
        second = quantise(job, quiet)
        assert {name: Path(second[name]).read_bytes() for name in files} == files
        assert second["notes"] == first["notes"]
        with pytest.raises(AssertionError, match="made again"):
            quantise({**job, "calibrate": {**job["calibrate"], "count": 3}}, quiet)
        (kept,) = (tmp_path / "state/int8").iterdir()
        (kept / "found.json").write_bytes(b"damaged")
        with pytest.raises(AssertionError, match="made again"):
            quantise(job, quiet)
    quantise(job, quiet)
    assert [path.name for path in (tmp_path / "state/int8").iterdir()] == [kept.name]


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A detector whose colours go past a channel ten thousand times as large, which `back` reads and drops."""
    model = models.load(squares.detector(tmp_path / "spoilt.onnx"))
    there = np.concatenate([np.eye(3), np.zeros((1, 3))]).astype(np.float32)[..., None, None]
    stored = {"w1": there, "b1": np.array([0, 0, 0, 1e4], np.float32), "w2": there.transpose(1, 0, 2, 3).copy()}
    nodes = [
        helper.make_node("Conv", ["mean", "w1", "b1"], ["c1"], "there"),
        helper.make_node("Conv", ["c1", "w2"], ["colour"], "back"),
    ]
    first, compare, *rest = model.graph.node
    compare.input[0] = "colour"
    kept = [first, *nodes, compare, *rest]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    models.save(model, tmp_path / "spoilt.onnx")
    return tmp_path / "spoilt.onnx"


def test_layers_stay_float_until_the_labels_are_met(job: dict[str, Any], spoilt: Path, labels: Path) -> None:
    job["onnx"] = str(spoilt)
    assert quantise(job, quiet)["notes"][0].endswith(", 1 layers stay float")  # the head
    accept = {"labels": [str(labels), str(labels.parent)], "least": 90}
    said = quantise({**job, "accept": accept}, quiet)
    nodes = {node.name: node for node in models.load(Path(said["fuse"])).graph.node}
    assert nodes["back"].input[0] == "c1" and "_dq" in nodes["there"].input[0]
    assert quantise({**job, "accept": accept}, quiet)["notes"] == said["notes"]
    with pytest.raises(CalibrationError, match="no layer can be INT8 and leave 101"):
        quantise({**job, "accept": {**accept, "least": 101}}, quiet)


@pytest.mark.usefixtures("quick")
def test_a_build_with_labels_has_int8_that_passes(spoilt: Path, labels: Path) -> None:
    said = {"model": str(spoilt), "classes": list(squares.NAMES), "calibrate": {"images": str(labels.parent)}}
    said |= {"build": {"backend": "onnxruntime", "candidates": ["int8-qdq"]}}
    accept = {"annotations": str(labels), "max_map_drop": 5}
    with pytest.raises(AccuracyGateFailed, match="min_agreement"):
        build(parse({**said, "accept": {"images": str(labels.parent)}}, "recipe"), labels.parent / "engines")
    made = build(parse({**said, "accept": accept}, "recipe"), labels.parent / "engines").package.manifest
    assert made.precision == "int8" and any("2 layers stay float" in line for line in made.verdict)


@pytest.mark.usefixtures("quick")
def test_a_model_that_carries_pairs_is_built_as_it_is(job: dict[str, Any], labels: Path) -> None:
    """Images change nothing, and other candidates are refused."""
    said: dict[str, Any] = {"model": quantise(job, quiet)["fuse"], "classes": list(squares.NAMES)}
    said |= {"build": {"backend": "onnxruntime"}, "calibrate": {"images": str(labels.parent)}}
    package = build(parse(said, "recipe"), labels.parent / "engines").package
    assert package.manifest.precision == "int8" and [one.name for one in package.manifest.candidates] == ["int8-qdq"]
    given, kept = (models.load(path) for path in (Path(said["model"]), package.folder / package.manifest.engine))
    stored = {tensor.name for tensor in given.graph.initializer}
    pairs = [{n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear"} - stored for made in (given, kept)]
    assert pairs[0] == pairs[1] and pairs[0]  # ONNX Runtime folds those of weights
    said["build"]["candidates"] = ["fp32"]
    with pytest.raises(BuildError, match="the model carries Q/DQ, so it is built as it is"):
        build(parse(said, "recipe"), labels.parent / "engines")


def test_images_unlike_the_input_are_told_of(job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    cv2.imwrite(str(tmp_path / "small/1.png"), np.zeros((20, 20, 3), np.uint8))
    job["calibrate"] = {"images": str(tmp_path / "small"), "count": 4}
    assert any("far smaller than the input of 64x64" in note for note in quantise(job, quiet)["notes"])


def test_images_for_tensorrt_are_what_the_network_takes(labels: Path, tmp_path: Path) -> None:
    files = sorted(labels.parent.glob("*.png"))
    write_images(tmp_path / "p.npy", files, LOOK)
    rows = np.load(tmp_path / "p.npy")
    assert rows.shape == (4, 3, 64, 64) and rows.dtype == np.float32
    assert rows.min() >= 0 and rows.max() == 1.0


def test_images_are_known_by_what_they_hold(labels: Path) -> None:
    before = hash_of(labels.parent)
    (labels.parent / "3.png").rename(labels.parent / "9.png")
    assert hash_of(labels.parent) == before
    (labels.parent / "9.png").unlink()
    assert hash_of(labels.parent) != before
    for path in labels.parent.glob("*.png"):
        path.unlink()
    with pytest.raises(ConfigError, match="no images in"):
        hash_of(labels.parent)
