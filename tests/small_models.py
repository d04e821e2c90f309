"""Small ONNX models for the tests: a graph from its nodes and initializers, and weights in many forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
node = helper.make_node


def random(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(
    nodes: Sequence[NodeProto],
    tensors: Mapping[str, Array],
    x: Sequence[int | str] = (1, 64, 8, 8),
    outputs: Sequence[str] = ("y",),
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
) -> ModelProto:
    """A checked model from input `x` to `outputs`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", dtype, x)],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
            for name, value in tensors.items()
        ],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    source = onnx.shape_inference.infer_shapes(source)
    onnx.checker.check_model(source)
    return source


def conv(weight: Array, **attributes: Any) -> ModelProto:
    """One convolution `conv` with `weight`, from x to y."""
    channels = weight.shape[1] * int(attributes.get("group", 1))
    dtype = helper.np_dtype_to_tensor_dtype(weight.dtype)
    return model(
        [node("Conv", ["x", "w"], ["y"], "conv", **attributes)], {"w": weight}, (1, channels, 8, 8), dtype=dtype
    )


def run(source: ModelProto, x: Array | None = None) -> list[npt.NDArray[np.float32]]:
    """All outputs of `source` in ONNX Runtime, for `x` or for fixed noise."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    # unfused, as the graph is written: with fusions, some releases also quantize the activations
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    if x is None:
        kind = np.float16 if "float16" in entry.type else np.float32
        x = random(*(n if isinstance(n, int) else 1 for n in entry.shape), seed=9).astype(kind)
    return list(session.run(None, {entry.name: x}))


def _matmul(before: Sequence[NodeProto], **tensors: Array) -> ModelProto:
    return model([*before, node("MatMul", ["x", "b"], ["y"], "layer")], tensors, (8, 64), opset=13)


def _left(w: npt.NDArray[np.float32]) -> ModelProto:
    nodes = [node("Transpose", ["x"], ["t"]), node("MatMul", ["w", "t"], ["u"]), node("Transpose", ["u"], ["y"])]
    return model(nodes, {"w": w.T}, (8, 64))


def _int8(w: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    return np.rint(np.clip(w * 30, -127, 127)).astype(np.int8)


SCALE = np.array(1 / 30, np.float32)
HELD: dict[str, Callable[[npt.NDArray[np.float32]], ModelProto]] = {
    "matmul": lambda w: model([node("MatMul", ["x", "w"], ["y"])], {"w": w}, (8, 64)),
    "left": _left,
    "gemm": lambda w: model([node("Gemm", ["x", "w"], ["y"])], {"w": w}, (8, 64)),
    "gemm transB": lambda w: model([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": w.T}, (8, 64)),
    "identity": lambda w: _matmul([node("Identity", ["w"], ["b"])], w=w),
    "transpose": lambda w: _matmul([node("Transpose", ["w"], ["b"], perm=[1, 0])], w=w.T),
    "reshape": lambda w: _matmul([node("Reshape", ["w", "s"], ["b"])], w=w.reshape(32, 2, 48), s=np.array([-1, 48])),
    "squeeze": lambda w: _matmul([node("Squeeze", ["w", "a"], ["b"])], w=w[None], a=np.array([0])),
    "flatten": lambda w: _matmul([node("Flatten", ["w"], ["b"])], w=w.reshape(64, 6, 8)),
    "cast": lambda w: _matmul([node("Cast", ["w"], ["b"], to=TensorProto.FLOAT)], w=w.astype(np.float16)),
    "constant": lambda w: _matmul([node("Constant", [], ["b"], value=numpy_helper.from_array(w))]),
    "dequantize": lambda w: _matmul([node("DequantizeLinear", ["w", "s"], ["b"])], w=_int8(w), s=SCALE),
    "dequantize, then transpose": lambda w: _matmul(
        [
            node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0),
            node("Transpose", ["d"], ["b"], perm=[1, 0]),
        ],
        w=_int8(w.T),
        s=np.full(48, SCALE),
        z=np.zeros(48, np.int8),
    ),
    "quantize, dequantize": lambda w: _matmul(
        [
            node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=1),
            node("DequantizeLinear", ["q", "s", "z"], ["b"], axis=1),
        ],
        w=w,
        s=np.full(48, SCALE),
        z=np.zeros(48, np.int8),
    ),
}
"""How the [64, 48] weight of one matrix product (64 in, 48 out) may be stored in a model."""


def stored_as(kind: str, weight: npt.NDArray[np.float32]) -> ModelProto:
    return HELD[kind](weight)
