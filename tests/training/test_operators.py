"""ONNX operators in PyTorch, each against ONNX's reference implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch", reason="torch: needs PyTorch")

from edgesparse.training.operators import OPERATORS  # noqa: E402


@pytest.mark.parametrize(
    ("kind", "shape", "attributes"),
    [
        ("SpaceToDepth", (2, 3, 4, 6), {"blocksize": 2}),
        ("DepthToSpace", (2, 12, 2, 3), {"blocksize": 2}),
        ("DepthToSpace", (2, 12, 2, 3), {"blocksize": 2, "mode": "DCR"}),
        ("DepthToSpace", (2, 12, 2, 3), {"blocksize": 2, "mode": "CRD"}),
    ],
)
def test_blocks_of_pixels_become_channels_and_back(
    kind: str, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    node = helper.make_node(kind, ["x"], ["y"], **attributes)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sides = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph([node], "one", [next(sides)], [next(sides)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    (right,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(OPERATORS[kind](node, [None])(torch.from_numpy(x)).numpy(), right)
