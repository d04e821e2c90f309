"""Regressions for real exporter output that was once misread: each was seen in a file of the named exporter."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edgesparse.model.load import load
from edgesparse.sparsity.inspect import inspect


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    """As in FP16 files of Ultralytics 8.4: the Casts at the input come last, which ONNX's checker refuses."""
    inner = helper.make_graph(
        [helper.make_node("Add", ["half", "half"], ["twice"])],
        "branch",
        [],
        [helper.make_tensor_value_info("twice", TensorProto.FLOAT16, None)],
    )
    nodes = [
        helper.make_node("If", ["yes"], ["doubled"], then_branch=inner, else_branch=inner),
        helper.make_node("Cast", ["doubled"], ["output0"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["images"], ["half"], to=TensorProto.FLOAT16),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor("yes", TensorProto.BOOL, [], [True])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "half.onnx")
    assert [node.op_type for node in load(tmp_path / "half.onnx").graph.node] == ["Cast", "If", "Cast"]


def test_a_weight_whose_shape_is_read_is_shared_with_nobody() -> None:
    """As torch.onnx.export writes convolutions with dynamo=True, optimize=False."""
    nodes = [
        helper.make_node("Shape", ["weight"], ["sizes"]),
        helper.make_node("Conv", ["images", "weight"], ["output0"], name="conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "shape",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 64, 8, 8])],
        [
            helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 64, 8, 8]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [4]),
        ],
        [helper.make_tensor("weight", TensorProto.FLOAT, [64, 64, 1, 1], [0.0, 0.0, 1.0, 2.0] * 1024)],
    )
    (layer,) = inspect(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).layers
    assert (layer.reason, layer.state) == (None, "sparse")
