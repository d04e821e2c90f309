"""ONNX files: read, or refused in one line; making shapes static; changing batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import squares
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgesparse.errors import ModelError
from edgesparse.model.load import ModelInfo, byte_input, describe, files, fix_shapes, info, load, save

node = helper.make_node


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Every initializer by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def refused(path: Path) -> str:
    """The one-line message of a refused file."""
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def answers(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, 3, 64, 64), np.float32)


def test_a_file_is_described(tmp_path: Path) -> None:
    description = info(load(squares.detector(tmp_path / "model.onnx", batch="n", size=("h", 64))))
    assert description.inputs == {"images": (None, 3, None, 64)} and description.outputs == {"output0": (None, 6, 84)}
    assert (description.opset, description.image, description.size) == (17, "images", None)
    assert description.metadata["names"] == "{0: 'red', 1: 'green'}"
    assert describe(description.inputs) == "images ?x3x?x64"


@pytest.mark.parametrize(
    ("shape", "metadata", "size"),
    [
        ((1, 3, 480, 640), {}, (480, 640)),
        ((1, 3, None, None), {"imgsz": "[480, 640]"}, (480, 640)),
        ((1, 3, None, None), {"imgsz": "640"}, None),
        ((1, 3, None, None), {}, None),
    ],
)
def test_the_size_comes_from_the_input_or_else_from_the_metadata(shape: Any, metadata: Any, size: Any) -> None:
    assert ModelInfo({"images": shape}, {}, metadata, 17, "").size == size


@pytest.mark.parametrize("inputs", [{}, {"a": (1, 3, 8, 8), "b": (1, 3, 8, 8)}, {"a": (1, 1, 8, 8)}, {"a": ()}])
def test_a_single_image_input_is_needed(inputs: Any) -> None:
    with pytest.raises(ModelError, match="needed one image input N x 3 x H x W"):
        _ = ModelInfo(inputs, {}, {}, 17, "").image


def test_a_missing_file(tmp_path: Path) -> None:
    assert "no model" in refused(tmp_path / "model.onnx")
    assert "no model" in refused(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "model.textproto"])
@pytest.mark.parametrize("data", [b"", b"\0\0", b"this is no model", b"\x89PNG\r\n\x1a\n", b"{}"])
def test_files_that_are_not_onnx_under_any_name(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert "not a complete ONNX file" in refused(tmp_path / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares.detector(tmp_path_factory.mktemp("whole") / "model.onnx")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(cut=st.floats(0, 1))
def test_a_truncated_file_is_refused_or_can_still_be_described(tmp_path: Path, whole: Path, cut: float) -> None:
    """A file truncated between two protobuf fields is a valid file, though not a detector."""
    data, path = whole.read_bytes(), tmp_path / "cut.onnx"
    path.write_bytes(data[: int(cut * len(data))])
    try:
        model = load(path)
        fix_shapes(model, 1, info(model).size)
        constants(model)
    except ModelError as error:
        assert "\n" not in str(error)


def test_a_weight_with_more_numbers_than_its_shape_says(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "model.onnx"))
    next(tensor for tensor in model.graph.initializer if tensor.name == "boxes").dims[1] = 3
    onnx.save(model, str(tmp_path / "model.onnx"))
    assert "the weight boxes is damaged" in refused(tmp_path / "model.onnx")


def test_an_operator_that_onnx_does_not_know(tmp_path: Path) -> None:
    shape = (1, 3, 8, 8)
    nodes = [node("Sharpen", ["images"], ["y"])]
    squares.write(tmp_path / "model.onnx", nodes, {}, [("images", shape)], [("y", shape)])
    assert "operator Sharpen is not in ONNX opset 17: export with plain ONNX operators" in refused(
        tmp_path / "model.onnx"
    )


def test_a_graph_that_reads_a_tensor_nothing_writes(tmp_path: Path) -> None:
    shape = (1, 3, 8, 8)
    squares.write(tmp_path / "model.onnx", [node("Relu", ["z"], ["y"])], {}, [("images", shape)], [("y", shape)])
    assert "not valid ONNX" in refused(tmp_path / "model.onnx")


def with_weights_beside(folder: Path, location: str = "weights.bin") -> Path:
    model = onnx.load(squares.detector(folder / "model.onnx"))
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location=location, size_threshold=0)
    return folder / "model.onnx"


def test_weights_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    assert constants(load(path))["boxes"].shape == (1, 4, 84)
    assert files(path) == [path, tmp_path / "weights.bin"]
    assert files(squares.detector(tmp_path / "plain.onnx")) == [tmp_path / "plain.onnx"]


def test_weights_that_are_missing_or_truncated(tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "weights.bin" in refused(path) or "must be copied too" in refused(path)
    weights.unlink()
    assert "weights.bin" in refused(path) and "must be copied too" in refused(path)


def kinds(graph: onnx.GraphProto) -> set[str]:
    """Names of the attributes in which Constants of a graph and its subgraphs store their values."""
    result = {each.name for n in graph.node for each in n.attribute if n.op_type == "Constant"}
    return result.union(*(kinds(each.g) for n in graph.node for each in n.attribute if each.HasField("g")))


def test_values_of_constants_become_tensors_and_the_results_stay(tmp_path: Path) -> None:
    """TensorRT 8.5 ignores integers that are not stored as a tensor."""
    value = helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None)
    inner = [node("Constant", [], ["k"], value_floats=[0.1, -2.0, 3.5]), node("Mul", ["e", "k"], ["b"])]
    branch = helper.make_graph(inner, "branch", [], [value])
    nodes = [
        node("Constant", [], ["to"], value_ints=[1, 64, 64, 3]),
        node("Constant", [], ["axis"], value_int=3),
        node("Constant", [], ["tenth"], value_float=0.1),
        node("Constant", [], ["more"], value=numpy_helper.from_array(np.array([1, 2, 3], np.float32))),
        node("Reshape", ["images", "to"], ["r"]),
        node("CumSum", ["r", "axis"], ["c"]),
        node("Mul", ["c", "tenth"], ["d"]),
        node("Add", ["d", "more"], ["e"]),
        node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    weights: dict[str, NDArray[Any]] = {"yes": np.array(True)}
    shape = (1, 64, 64, 3)
    path = squares.write(tmp_path / "a.onnx", nodes, weights, [("images", (1, 3, 64, 64))], [("y", shape)])
    original = onnx.load(path)
    assert kinds(original.graph) == {"value", "value_int", "value_ints", "value_float", "value_floats"}
    model = load(path)
    assert kinds(model.graph) == {"value"}
    np.testing.assert_array_equal(answers(model, images(1)), answers(original, images(1)))
    save(model, tmp_path / "b.onnx")
    assert kinds(onnx.load(tmp_path / "b.onnx").graph) == {"value"}


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    model = load(squares.detector(tmp_path / "model.onnx"))
    save(model, tmp_path / "again.onnx")
    assert load(tmp_path / "again.onnx") == model


# Static shapes


@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), (1, 3, "h", "w"), ("n", 3, 64, 64), ("n", "c", "h", "w")])
def test_dynamic_dimensions_become_the_requested_ones(tmp_path: Path, shape: Any) -> None:
    path = squares.detector(tmp_path / "model.onnx", batch=shape[0], size=shape[2:])
    model = onnx.load(path)
    if shape[1] == "c":
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"
    fixed = fix_shapes(model, 1, (64, 64))
    description = info(fixed)
    assert description.inputs == {"images": (1, 3, 64, 64)} and description.outputs == {"output0": (1, 6, 84)}
    np.testing.assert_array_equal(answers(fixed, images(1)), answers(model, images(1)))


def test_the_size_of_the_metadata_is_used_by_default(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "model.onnx", size=("h", "w"), names=None))
    helper.set_model_props(model, {"imgsz": "[64, 64]"})
    assert info(fix_shapes(model, 1, None)).size == (64, 64)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        (("h", "w"), None, r"images 1x3x\?x\? has no fixed height and width: set input.size"),
        ((64, 64), (64, 96), r"the input is images 1x3x64x64, needed 64x96: export the model at 64x96"),
        (("h", 64), (64, 96), r"needed 64x96"),
    ],
)
def test_a_size_that_is_missing_or_wrong(tmp_path: Path, shape: Any, size: Any, message: str) -> None:
    model = onnx.load(squares.detector(tmp_path / "model.onnx", size=shape))
    with pytest.raises(ModelError, match=message) as caught:
        fix_shapes(model, 1, size)
    assert "\n" not in str(caught.value)


def test_the_original_model_stays_unchanged(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "model.onnx"))
    before = model.SerializeToString()
    fix_shapes(model, 4, None)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("old", [1, 2, 3])
@pytest.mark.parametrize("new", [1, 2, 5])
def test_each_image_has_the_same_result_in_any_batch(tmp_path: Path, old: int, new: int) -> None:
    """A model whose batch is also part of a Reshape's constant shape."""
    model = load(squares.detector(tmp_path / "model.onnx", batch=old))
    rebatched = answers(fix_shapes(model, new, None), images(new))
    for image in range(new):
        alone = np.repeat(images(new)[image : image + 1], old, axis=0)
        np.testing.assert_allclose(rebatched[image], answers(model, alone)[0], atol=1e-6)


def reshaping(folder: Path, batch: int, to: list[int], **shape: Any) -> onnx.ModelProto:
    """A model whose Reshape has its shape, `to`, from a Constant node that stores it as `shape`."""
    nodes = [node("Constant", [], ["s"], **shape)]
    nodes += [node("Reshape", ["images", "s"], ["r"]), node("Relu", ["r"], ["y"])]
    out = [("y", tuple(n if n > 0 else batch * 3 * 64 * 64 for n in to))]
    path = folder / "reshape.onnx"
    return load(squares.write(path, nodes, {}, [("images", (batch, 3, 64, 64))], out))


@pytest.mark.parametrize(
    "shape",
    [{"value": numpy_helper.from_array(np.array([2, 3, 4096]))}, {"value_ints": [2, 3, 4096]}],
    ids=["tensor", "integers"],
)
def test_the_shape_of_a_reshape_may_be_a_constant_node(tmp_path: Path, shape: dict[str, Any]) -> None:
    model = fix_shapes(reshaping(tmp_path, 2, [2, 3, 4096], **shape), 3, None)
    assert answers(model, images(3)).shape == (3, 3, 4096)


def test_a_reshape_to_one_dimension_keeps_its_length_free(tmp_path: Path) -> None:
    model = fix_shapes(reshaping(tmp_path, 1, [-1], value_ints=[-1]), 2, None)
    assert answers(model, images(2)).shape == (2 * 3 * 64 * 64,)


def test_a_batch_that_cannot_be_changed_is_refused_in_one_line(tmp_path: Path) -> None:
    weights = {"w": np.zeros((2, 3, 64, 64), np.float32)}
    shape = (2, 3, 64, 64)
    nodes = [node("Add", ["images", "w"], ["y"])]
    model = load(squares.write(tmp_path / "model.onnx", nodes, weights, [("images", shape)], [("y", shape)]))
    with pytest.raises(ModelError, match="does not take this batch and size"):
        fix_shapes(model, 3, None)


def test_other_inputs_get_the_batch_and_scalars_stay_unchanged(tmp_path: Path) -> None:
    inputs: list[tuple[str, Any]] = [("images", ("n", 3, 64, 64)), ("sizes", ("n", 2)), ("least", ())]
    nodes = [node("ReduceMean", ["images"], ["m"], axes=[2, 3], keepdims=0), node("Add", ["m", "least"], ["y"])]
    nodes += [node("Relu", ["sizes"], ["z"])]
    outputs: list[tuple[str, Any]] = [("y", ("n", 3)), ("z", ("n", 2))]
    model = load(squares.write(tmp_path / "model.onnx", nodes, {}, inputs, outputs))
    description = info(fix_shapes(model, 4, None))
    assert description.inputs == {"images": (4, 3, 64, 64), "sizes": (4, 2), "least": ()}
    assert description.outputs == {"y": (4, 3), "z": (4, 2)}


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [(1.0, (0, 0, 0), (1, 1, 1)), (1 / 255, (0, 0, 0), (1, 1, 1)), (1 / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))],
)
def test_an_image_of_bytes_is_scaled_by_the_graph(
    dtype: int, scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    shape = [1, 3, 4, 6]
    ends = [onnx.helper.make_tensor_value_info(name, dtype, shape) for name in ("images", "out")]
    body = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["images"], ["out"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    changed = byte_input(model, scale, mean, std)
    onnx.checker.check_model(changed, full_check=True)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    session = ort.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"images": pixels})
    expected = (pixels * scale - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(result, expected, rtol=1e-5 if dtype == onnx.TensorProto.FLOAT else 4e-3, atol=4e-3)
    assert byte_input(changed, scale, mean, std) == changed  # the model takes bytes already
