"""INT8 in every form from one calibration, which the second build reuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from onnx import helper, numpy_helper

from edgesparse.builder import int8
from edgesparse.builder.build import build
from edgesparse.builder.child.job import QuantizeJob, ScoreTarget
from edgesparse.builder.int8 import hash_images, write_images, write_int8
from edgesparse.config import DetectorSpec, InputSpec, parse
from edgesparse.errors import AccuracyGateFailed, BuildError, CalibrationError, ConfigError
from edgesparse.int8 import calibration_table
from edgesparse.model.load import load, save
from edgesparse.progress import quiet
from edgesparse.sparsity.inspect import inspect

LOOK = InputSpec(size=(64, 64))


@pytest.fixture
def job(sparse_model: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QuantizeJob:
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path / "state"))
    spec = DetectorSpec(head="yolov8", classes=("red", "green"), input=LOOK)
    (tmp_path / "work").mkdir()
    return QuantizeJob(sparse_model, tmp_path / "work", spec, labels.parent, 4)


def test_every_form_is_written_and_stays_2to4(job: QuantizeJob) -> None:
    result = write_int8(job, quiet)
    models = {path: load(path) for path in (result.fuse, result.sparse, result.even)}
    pairs = [sum(node.op_type == "QuantizeLinear" for node in model.graph.node) for model in models.values()]
    assert pairs[2] == 0 < min(pairs[:2])
    for model in models.values():
        states = {layer.name: layer.state for layer in inspect(model).layers}
        assert (states["conv1"], states["conv2"]) == ("sparse", "sparse")
    table = calibration_table.read(result.table.read_bytes())
    assert {"wide0", "wide1", "wide2"} <= set(table.scales)
    assert "output0" not in table.scales
    assert result.notes[0].startswith("INT8: 4 images; ")


def test_it_is_calibrated_once_per_device_unless_something_changes(
    job: QuantizeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_int8(job, quiet)
    files = {path: path.read_bytes() for path in (first.fuse, first.sparse, first.even, first.table)}

    def again(*_: object, **__: object) -> None:
        raise AssertionError("calibrated again")

    with monkeypatch.context() as patched:
        patched.setattr(int8, "recover", again)
        assert write_int8(job, quiet) == first
        assert {path: path.read_bytes() for path in files} == files
        with pytest.raises(AssertionError, match="calibrated again"):
            write_int8(replace(job, count=3), quiet)
        (cached,) = (tmp_path / "state/int8").iterdir()
        (cached / "calibrated.json").write_bytes(b"damaged")
        with pytest.raises(AssertionError, match="calibrated again"):
            write_int8(job, quiet)
    write_int8(job, quiet)
    assert [path.name for path in (tmp_path / "state/int8").iterdir()] == [cached.name]


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """A detector with a channel ten thousand times as large as the colors, which `back` reads but ignores."""
    model = load(squares.detector(tmp_path / "uneven.onnx"))
    weights = np.concatenate([np.eye(3), np.zeros((1, 3))]).astype(np.float32)[..., None, None]
    stored = {"w1": weights, "b1": np.array([0, 0, 0, 1e4], np.float32), "w2": weights.transpose(1, 0, 2, 3).copy()}
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
    save(model, tmp_path / "uneven.onnx")
    return tmp_path / "uneven.onnx"


def test_layers_stay_float_until_the_labels_are_met(job: QuantizeJob, uneven: Path, labels: Path) -> None:
    job = replace(job, onnx=uneven)
    assert write_int8(job, quiet).notes[0].endswith(", 1 layers stay float")  # the head
    target = ScoreTarget(labels, labels.parent, 90)
    result = write_int8(replace(job, target=target), quiet)
    nodes = {node.name: node for node in load(result.fuse).graph.node}
    assert nodes["back"].input[0] == "c1" and "_dq" in nodes["there"].input[0]
    assert write_int8(replace(job, target=target), quiet).notes == result.notes
    with pytest.raises(CalibrationError, match="no layer can be INT8 and leave 101"):
        write_int8(replace(job, target=replace(target, minimum=101)), quiet)


@pytest.mark.usefixtures("quick")
def test_a_build_with_labels_has_int8_that_passes(uneven: Path, labels: Path) -> None:
    settings = {"model": str(uneven), "classes": list(squares.NAMES), "calibrate": {"images": str(labels.parent)}}
    settings |= {"build": {"backend": "onnxruntime", "candidates": ["int8-qdq"]}}
    accept = {"annotations": str(labels), "max_map_drop": 5}
    with pytest.raises(AccuracyGateFailed, match="min_agreement"):
        build(parse({**settings, "accept": {"images": str(labels.parent)}}, "recipe"), labels.parent / "engines")
    manifest = build(parse({**settings, "accept": accept}, "recipe"), labels.parent / "engines").package.manifest
    assert manifest.precision == "int8" and any("2 layers stay float" in line for line in manifest.verdict)


@pytest.mark.usefixtures("quick")
def test_a_model_with_qdq_is_built_unchanged(job: QuantizeJob, labels: Path) -> None:
    """Calibration images have no effect, and other candidates are refused."""
    settings: dict[str, Any] = {"model": str(write_int8(job, quiet).fuse), "classes": list(squares.NAMES)}
    settings |= {"build": {"backend": "onnxruntime"}, "calibrate": {"images": str(labels.parent)}}
    package = build(parse(settings, "recipe"), labels.parent / "engines").package
    (candidate,) = package.manifest.candidates
    assert package.manifest.precision == "int8" and candidate.name == "int8-qdq"
    source, built = (load(path) for path in (Path(settings["model"]), package.folder / package.manifest.engine))
    stored = {tensor.name for tensor in source.graph.initializer}
    pairs = [
        {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"} - stored
        for model in (source, built)
    ]
    assert pairs[0] == pairs[1] and pairs[0]  # ONNX Runtime folds the pairs of weights
    settings["build"]["candidates"] = ["fp32"]
    with pytest.raises(BuildError, match="the model has Q/DQ pairs and is built unchanged"):
        build(parse(settings, "recipe"), labels.parent / "engines")


def test_images_unlike_the_input_are_noted(job: QuantizeJob, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    cv2.imwrite(str(tmp_path / "small/1.png"), np.zeros((20, 20, 3), np.uint8))
    notes = write_int8(replace(job, images=tmp_path / "small"), quiet).notes
    assert any("far smaller than the input of 64x64" in note for note in notes)


def test_images_for_tensorrt_are_in_the_networks_format(labels: Path, tmp_path: Path) -> None:
    files = sorted(labels.parent.glob("*.png"))
    write_images(tmp_path / "p.npy", files, LOOK)
    rows = np.load(tmp_path / "p.npy")
    assert rows.shape == (4, 3, 64, 64) and rows.dtype == np.float32
    assert rows.min() >= 0 and rows.max() == 1.0


def test_images_are_known_by_their_contents(labels: Path) -> None:
    before = hash_images(labels.parent)
    (labels.parent / "3.png").rename(labels.parent / "9.png")
    assert hash_images(labels.parent) == before
    (labels.parent / "9.png").unlink()
    assert hash_images(labels.parent) != before
    for path in labels.parent.glob("*.png"):
        path.unlink()
    with pytest.raises(ConfigError, match="no images in"):
        hash_images(labels.parent)
