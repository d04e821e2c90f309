"""The detector that ships with edgesparse matches its model card."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from edgesparse.builder.build import build
from edgesparse.builder.targets import DEMO, recipe_of
from edgesparse.demo.export import export
from edgesparse.demo.scene import CLASSES
from edgesparse.model import load as models
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, evaluate
from edgesparse.runtime.labels.read import Labels
from edgesparse.sparsity.inspect import inspect

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "edgesparse" / "demo"
UNSEEN = 1_000_000  # training uses seeds from 0 up to here


@pytest.mark.parametrize("name", ["parts_dense.onnx", "parts_2to4.onnx"])
def test_size_and_interface(name: str) -> None:
    path = FOLDER / name
    model = models.load(path)
    stated = models.info(model)
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert path.stat().st_size <= 6_000_000
    assert sum(weight.size for weight in weights) <= 1_500_000
    assert stated.opset == 17
    assert (stated.inputs, stated.outputs) == ({"images": (1, 3, 320, 320)}, {"output0": (1, 4 + len(CLASSES), 2100)})
    assert "Relu" in {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_every_layer_that_can_be_is_2to4() -> None:
    sparse = inspect(onnx.load(FOLDER / "parts_2to4.onnx"))
    dense = inspect(onnx.load(FOLDER / "parts_dense.onnx"))
    assert len(sparse.eligible) == len(dense.eligible) == 27
    assert all(layer.sparse for layer in sparse.eligible)
    assert not any(layer.sparse for layer in dense.eligible)


@pytest.mark.parametrize("name", ["parts_dense.onnx", "parts_2to4.onnx"])
def test_detects_in_scenes_it_never_saw(name: str, tmp_path: Path) -> None:
    """Only a few scenes, so with a margin; benchmarks/results/train_demo.json has the score on 1000."""
    export(tmp_path / "scenes", 24, UNSEEN)
    recipe = recipe_of(DEMO).model_copy(update={"model": FOLDER / name})
    package = build(recipe, tmp_path / "engines").package
    from edgesparse.backends import backend

    with Detector(backend("onnxruntime").load(package.engine), package.manifest.detector, SCORING) as detector:
        result = evaluate(detector, Labels(tmp_path / "scenes" / "instances.json"))
    assert result.map > 85
    assert {score.name for score in result.classes} == set(CLASSES)


def test_calibration_images_are_those_of_the_index() -> None:
    folder = ROOT / "calib_data"
    rows = yaml.safe_load((folder / "index.yaml").read_text())["images"]
    assert len(rows) == 64
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.jpg")}
    for row in rows:
        assert hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() == row["sha256"]
        assert row["origin"] and row["licence"] == "Apache-2.0"


def test_the_2to4_file_keeps_half_of_each_group() -> None:
    """Read without edgesparse: at most two of four consecutive input channels are nonzero."""
    model = onnx.load(FOLDER / "parts_2to4.onnx")
    wide = [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 4 and min(t.dims[:2]) >= 32]
    assert len(wide) == 27
    for weight in wide:
        groups = weight.reshape(weight.shape[0], -1, 4, *weight.shape[2:])
        assert np.count_nonzero(groups, axis=2).max() <= 2
