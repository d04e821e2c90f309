"""Making a static batch dynamic: the same numbers at any batch, or a line that names the obstacle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import squares
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import edgesparse.demo
from edgesparse.errors import ModelError
from edgesparse.model import load as models
from edgesparse.model.batch import OPEN, open_batch
from edgesparse.model.load import Model

PARTS = Path(edgesparse.demo.__file__).parent / "parts_2to4.onnx"


def run(model: Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return results


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("what", ["squares", "parts"])
def test_the_same_numbers_at_any_batch(tmp_path: Path, what: str, batch: int) -> None:
    path = squares.detector(tmp_path / "squares.onnx") if what == "squares" else PARTS
    static = models.fix_shapes(models.load(path), batch, None)
    opened = open_batch(static, 1, 4)
    assert models.info(opened).inputs["images"][0] is None
    assert opened.graph.output[0].type.tensor_type.shape.dim[0].dim_param == OPEN
    assert models.info(static).inputs["images"][0] == batch, "what is given stays as it is"
    height, width = models.info(opened).inputs["images"][2:]
    images = np.random.default_rng(0).random((3, 3, height or 0, width or 0), np.float32)
    single = models.fix_shapes(static, 1, None)
    apart = np.concatenate([run(single, images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(run(opened, images), apart, rtol=1e-4, atol=1e-4)


def reshaping(first: int, *, batch: int = 2, allow_zero: int = 0) -> Model:
    """Reshape batch x 3 x 4 x 4 to `first` x -1 and back; if `first` is not the batch, the batch is folded into the
    channels."""
    inner = [first, -1] if first == batch else [first, 16]
    constants = {"one": np.array(inner, np.int64), "back": np.array([batch, 3, 16], np.int64)}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "one"], ["f"], allowzero=allow_zero),
        helper.make_node("Reshape", ["f", "back"], ["y"]),
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3, 16])
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    source = helper.make_graph(nodes, "g", [entry], [result], stored)
    return helper.make_model(source, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("first", [2, 6])
def test_a_fixed_batch_and_one_folded_into_another_dimension(first: int) -> None:
    opened = open_batch(reshaping(first), 1, 8)
    images = np.random.default_rng(0).random((5, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(run(opened, images), images.reshape(5, 3, 16))


def test_a_batch_that_cannot_be_opened_is_refused() -> None:
    with pytest.raises(ModelError, match=r"output y of the network is \(2, .*batch 1.*one number"):
        open_batch(reshaping(2, allow_zero=1), 1, 4)
    model = reshaping(2)
    constant = numpy_helper.from_array(np.ones((2, 3, 16), np.float32), "c")
    model.graph.initializer.append(constant)
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Add", ["before", "c"], ["y"]))
    with pytest.raises(ModelError, match=r"does not take this batch|batch 1, needed"):
        open_batch(model, 1, 4)
