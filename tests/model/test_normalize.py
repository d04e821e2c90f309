"""Models as real exporters and tools write them: read into one form, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from small_models import conv, model, node, random, run

from edgesparse.errors import ModelError
from edgesparse.model.activations import Inputs, stream
from edgesparse.model.check import require_finite
from edgesparse.model.load import byte_input, info, load
from edgesparse.model.shapes import shapes

WEIGHT = random(32, 3, 3, 3)
EXPORTED = ["best.pt", "best.pth", "BEST.PT", "best.torchscript", "best.engine", "best.plan", "best.tflite", "best.h5"]


def saved(source: ModelProto, folder: Path) -> Path:
    onnx.save(source, folder / "model.onnx")
    return folder / "model.onnx"


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as error:
        load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_initializers_listed_as_inputs_are_constants(tmp_path: Path) -> None:
    source = conv(WEIGHT)
    source.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, WEIGHT.shape))
    source.ir_version = 3
    loaded = load(saved(source, tmp_path))
    assert [value.name for value in loaded.graph.input] == ["x"]
    np.testing.assert_array_equal(run(loaded)[0], run(conv(WEIGHT))[0])


def test_initializers_listed_as_inputs_of_a_real_detector(real: Path) -> None:
    loaded = load(real / "models" / "nanodet_m_416.onnx")
    assert list(info(loaded).inputs) == ["input.1"] and Inputs(loaded).names == ("input.1",)


def test_the_domain_ai_onnx_is_the_empty_one(tmp_path: Path) -> None:
    source = conv(WEIGHT)
    source.graph.node[0].domain = source.opset_import[0].domain = "ai.onnx"
    source.opset_import.append(helper.make_opsetid("", 13))
    loaded = load(saved(source, tmp_path))
    assert {entry.domain: entry.version for entry in loaded.opset_import} == {"": 17}
    np.testing.assert_array_equal(run(loaded)[0], run(conv(WEIGHT))[0])


def test_the_domain_ai_onnx_in_a_file(cases: Path) -> None:
    loaded = load(cases / "domain_ai_onnx.onnx")
    assert {entry.domain for entry in loaded.graph.node} == {""}


def reading_branch() -> ModelProto:
    """An If whose branches read the graph's input image."""
    branches = {
        name: helper.make_graph([node(op, ["x"], [name])], name, [], [helper.make_empty_tensor_value_info(name)])
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "zero"], ["condition"]),
        node("If", ["condition"], ["y"], then_branch=branches["then"], else_branch=branches["else"]),
    ]
    return model(nodes, {"zero": np.array(0, np.float32)}, (1, 3, 4, 4))


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_a_branch_that_reads_the_image_reads_the_scaled_one(scale: float) -> None:
    changed = byte_input(reading_branch(), scale, (0, 0, 0), (1, 1, 1))
    onnx.checker.check_model(changed)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4)).astype(np.uint8)
    np.testing.assert_allclose(run(changed, pixels)[0], pixels * np.float32(scale), rtol=1e-6)


def test_a_branch_that_reads_the_image_in_a_file(cases: Path) -> None:
    loaded = load(cases / "if_reads_image.onnx")
    changed = byte_input(loaded, 1 / 255, (0, 0, 0), (1, 1, 1))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64)).astype(np.uint8)
    np.testing.assert_allclose(run(changed, pixels)[0], run(loaded, pixels / np.float32(255))[0], atol=1e-4)


def test_an_operator_of_onnx_runtime_is_named_with_its_origin(tmp_path: Path, cases: Path) -> None:
    source = conv(WEIGHT)
    source.graph.node[0].op_type, source.graph.node[0].domain = "FusedConv", "com.microsoft"
    source.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for path in (saved(source, tmp_path), cases / "fused_by_onnxruntime.onnx"):
        assert "operator FusedConv" in refused(path) and "its optimizer" in refused(path)


@pytest.mark.parametrize("name", EXPORTED)
def test_other_formats_get_the_export_command(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4")
    assert "yolo export model=" in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (b"PK\3\4", "a PyTorch file or a ZIP archive, not ONNX"),
        (b"ftrt", "a TensorRT engine"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS pointer, not the model itself: run 'git lfs pull'",
        ),
        (b"\x1f\x8b\x08", "a gzip archive, not the model itself: unpack it with gunzip"),
        (b"\x18\0\0\0ORTM", "a model in ONNX Runtime's own format, not ONNX"),
        (b'\x18\0\0\0\0\0\0\0{"weight":', "a safetensors file, not ONNX"),
        (b"<!DOCTYPE html>", "a web page or XML, not ONNX: download it again"),
    ],
)
def test_another_format_under_an_onnx_file_s_name_is_named(tmp_path: Path, begin: bytes, words: str) -> None:
    (tmp_path / "model.onnx").write_bytes(begin + bytes(40))
    assert f"model.onnx is {words}" in refused(tmp_path / "model.onnx")


def test_an_input_of_absurd_size(tmp_path: Path) -> None:
    source = conv(WEIGHT)
    source.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**31
    assert "x is 1x3x2147483648x8: too large" in refused(saved(source, tmp_path))


def test_metadata_of_absurd_size(tmp_path: Path) -> None:
    source = model([node("Conv", ["x", "w"], ["y"])], {"w": WEIGHT}, (1, 3, "h", "w"))
    helper.set_model_props(source, {"imgsz": f"[{'9' * 5000}, 640]"})
    assert info(load(saved(source, tmp_path))).size is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_weights_that_are_not_finite_are_refused_by_layer(value: float, place: int) -> None:
    bias = random(32)
    tensors = {"w": WEIGHT.copy(), "b": bias}
    tensors["wb"[place]].reshape(-1)[5] = value
    source = model([node("Conv", ["x", "w", "b"], ["y"], "stem")], tensors, (1, 3, 8, 8))
    with pytest.raises(ModelError, match="stem: weights hold NaN or infinity"):
        require_finite(source)


def limited(limit: float) -> ModelProto:
    nodes = [node("Conv", ["x", "w"], ["c"], "conv"), node("Min", ["c", "limit"], ["y"], "limit_boxes")]
    return model(nodes, {"w": WEIGHT, "limit": np.array(limit, np.float32)}, (1, 3, 8, 8))


def test_infinity_is_allowed_where_no_layer_reads_it_but_nan_is_not() -> None:
    require_finite(limited(np.inf))
    with pytest.raises(ModelError, match="limit_boxes: "):
        require_finite(limited(np.nan))


def test_the_input_of_sizes_is_filled_with_those_of_the_input() -> None:
    source = model([node("Conv", ["x", "w"], ["c"], "conv")], {"w": WEIGHT}, (2, 3, 8, 16), outputs=("c",))
    source.graph.node.append(node("Cast", ["sizes"], ["y"], to=TensorProto.FLOAT))
    source.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, ["n", 2]))
    source.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    batch = random(2, 3, 8, 16)
    (values,) = stream(source, lambda: [batch], ["c", "y"])
    np.testing.assert_array_equal(values["y"], [[16, 8], [16, 8]])


@pytest.mark.parametrize(("kind", "shape"), [(TensorProto.FLOAT, [1, 2]), (TensorProto.INT64, [1, 3])])
def test_an_input_that_cannot_be_filled_is_named(kind: int, shape: list[int]) -> None:
    source = conv(WEIGHT)
    source.graph.input.append(helper.make_tensor_value_info("mask", kind, shape))
    with pytest.raises(ModelError, match="needed mask to be the images' sizes"):
        Inputs(source)


def test_functions_of_the_model_itself_are_expanded(tmp_path: Path) -> None:
    block = helper.make_function(
        "own", "Block", ["a", "w"], ["b"], [node("Conv", ["a", "w"], ["c"], "inner"), node("Relu", ["c"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    source = model([node("Conv", ["x", "w"], ["y"])], {"w": WEIGHT}, (1, 3, 8, 8))
    source.graph.node[0].CopyFrom(node("Block", ["x", "w"], ["y"], "stem", domain="own"))
    source.functions.append(block)
    source.opset_import.append(helper.make_opsetid("own", 1))
    loaded = load(saved(source, tmp_path))
    assert [entry.op_type for entry in loaded.graph.node] == ["Conv", "Relu"] and not loaded.functions
    np.testing.assert_array_equal(run(loaded)[0], np.maximum(run(conv(WEIGHT))[0], 0))


def test_layers_of_one_name_are_told_apart(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["a"], "conv"), node("Relu", ["a"], ["conv_1"]), node("Neg", ["conv_1"], ["b"])]
    source = model(
        [*nodes, node("Conv", ["b", "v"], ["y"], "conv")], {"w": WEIGHT, "v": random(8, 32, 1, 1)}, (1, 3, 8, 8)
    )
    loaded = load(saved(source, tmp_path))
    assert [entry.name for entry in loaded.graph.node] == ["conv", "", "", "conv_2"]
    source.graph.node[3].name = "other"
    np.testing.assert_array_equal(run(loaded)[0], run(source)[0])


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(conv(WEIGHT).SerializeToString().replace(b"conv", b"co\xff\xfe"))
    assert "a name is not UTF-8" in refused(tmp_path / "model.onnx")


@pytest.mark.parametrize("side", [0, -1])
def test_a_dimension_without_extent_is_open(tmp_path: Path, side: int) -> None:
    nodes = [node("Slice", ["x", "start", "end", "axes", "steps"], ["y"])]
    tensors = {"start": np.array([-1]), "end": np.array([-9]), "axes": np.array([3]), "steps": np.array([-1])}
    source = model(nodes, tensors, (1, 3, 8, 8))
    source.graph.input[0].type.tensor_type.shape.dim[3].dim_value = side
    assert shapes(load(saved(source, tmp_path)))["x"] == (1, 3, 8, None)
