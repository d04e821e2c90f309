"""Models with unexpected outputs: ignored, read correctly, or refused with a message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import squares
from onnx import TensorProto, helper

from edgesparse.backends import backend
from edgesparse.builder.build import build
from edgesparse.builder.child.trials import require_boxes
from edgesparse.builder.prepare import detector_spec, open_static
from edgesparse.config import DetectorSpec, InputSpec, parse
from edgesparse.errors import BuildError, EdgeSparseError
from edgesparse.model.load import load
from edgesparse.runtime.detector import Detector


def yolov5_with_maps(path: Path) -> Path:
    """Decoded rows [1, 252, 10] and the three maps that they were decoded from, as YOLOv7 exports them."""
    nodes, outputs = [], []
    shapes = {"output": [1, 252, 10], **{f"raw{s}": [1, 3, 64 // s, 64 // s, 10] for s in (8, 16, 32)}}
    weights = [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])]
    nodes.append(helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    for name, shape in shapes.items():
        weights.append(onnx.numpy_helper.from_array(np.full(shape, 0.5, np.float32), f"{name}.values"))
        nodes.append(helper.make_node("Add", [f"{name}.values", "nothing"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph(nodes, "yolov7", [image], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_feature_maps_beside_decoded_boxes_are_left_out_with_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = parse({"model": str(yolov5_with_maps(tmp_path / "four.onnx"))}, "r.yaml")
    model = load(recipe.model)
    assert detector_spec(model, recipe).head == "yolov5"
    with open_static(model, recipe) as runner:
        assert [spec.name for spec in runner.outputs] == ["output"]
    assert "the outputs raw8, raw16, raw32 are feature maps for training: left out" in caplog.text


def broken(path: Path, factor: list[float]) -> Path:
    """The detector of squares with its output rows multiplied: x, y, width, height, then the classes."""
    model = squares.detector(path)
    graph = onnx.load(model)
    (output,) = graph.graph.output
    for node in graph.graph.node:
        for i, name in enumerate(node.output):
            if name == output.name:
                node.output[i] = "before"
    rows = np.array(factor, np.float32).reshape(1, -1, 1)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(rows, "factor"))
    graph.graph.node.append(helper.make_node("Mul", ["before", "factor"], [output.name]))
    onnx.save(graph, path)
    return path


def test_a_build_whose_boxes_have_no_width_is_refused_with_the_reason(
    tmp_path: Path, labels: Path, quick: None
) -> None:
    model = squares.detector(tmp_path / "squares.onnx")
    count = load(model).graph.output[0].type.tensor_type.shape.dim[1].dim_value
    path = broken(tmp_path / "broken.onnx", [1, 1, -1, 1, *[1] * (count - 4)])
    recipe = parse({"model": str(path), "accept": {"annotations": str(labels), "min_map": 0}}, "r.yaml")
    with pytest.raises(EdgeSparseError, match=r"are not valid boxes: .* no width or height"):
        build(recipe, tmp_path / "engines")


def test_the_faults_are_listed(tmp_path: Path) -> None:
    plan = {
        "inputs": [["images", [1, 3, 64, 64], "float32"]],
        "outputs": [["output0", [1, 3, 6], "float32"]],
        "values": {"output0": [[[9, 0, 5, 9, 0.9, 0], [0, 0, 9, 9, 72.2, 0], [0, 0, 9, 9, 9.5, 0]]]},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    spec = DetectorSpec(head="end2end", classes=("a",), input=InputSpec(size=(64, 64)))
    with Detector(backend("null").load(tmp_path / "plan.json"), spec) as detector:
        require_boxes(detector)
        detector(np.zeros((64, 64, 3), np.uint8))
        message = (
            "3 of its candidates .* are not valid boxes: 1 has no width or height, 2 have a confidence outside 0..1"
        )
        with pytest.raises(BuildError, match=message):
            require_boxes(detector)


@pytest.mark.parametrize(("name", "head"), [("four_outputs", "yolov5"), ("names_as_text_keys", "yolov8")])
def test_models_that_were_read_wrongly(real: Path, name: str, head: str) -> None:
    recipe = parse({"model": str(real.parent / "cases" / f"{name}.onnx")}, "r.yaml")
    spec = detector_spec(load(recipe.model), recipe)
    assert spec.head == head
    assert name != "names_as_text_keys" or spec.classes == tuple(f"class-{number}" for number in range(12))


@pytest.mark.parametrize(
    ("name", "head", "classes"),
    [
        ("yolox_nano", "yolox", 80),
        ("nanodet_m_416", "nanodet", 80),
        ("FastestDet", "fastestdet", 80),
        ("deimv2_atto", "rtdetr", 80),
        ("ultraface_rfb320", "ultraface", 1),
    ],
)
def test_real_models_are_recognized(real: Path, name: str, head: str, classes: int) -> None:
    names = "coco" if classes == 80 else "auto"
    recipe = parse({"model": str(real / "models" / f"{name}.onnx"), "classes": names}, "r.yaml")
    spec = detector_spec(load(recipe.model), recipe)
    assert (spec.head, len(spec.classes)) == (head, classes)
