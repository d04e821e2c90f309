"""Write corners.onnx: the demo's network with outputs that no known family has."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

model = onnx.load(str(Path(__file__).parents[2] / "edgesparse" / "demo" / "parts_dense.onnx"))
graph = model.graph
rows = graph.output[0].name  # [1, 4 + 5, 2100]: center x, center y, width, height in pixels, then scores
size = float(graph.input[0].type.tensor_type.shape.dim[2].dim_value)


def constant(name: str, values: object, dtype: type) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name


def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
    graph.node.append(helper.make_node(op, inputs, [output], **attributes))
    return output


columns = add("Transpose", [rows], "columns", perm=[0, 2, 1])
add("Split", [columns, constant("parts", [2, 2, 5], np.int64)], "center", axis=2)
graph.node[-1].output.extend(["side_pixels", "scores"])
half = add("Mul", ["side_pixels", constant("half", 0.5, np.float32)], "half_side")
corner = add("Sub", ["center", half], "corner_pixels")
scale = constant("scale", 1 / size, np.float32)
add("Mul", [corner, scale], "corner")
add("Mul", ["side_pixels", scale], "side")
del graph.output[:]
for name, width in (("corner", 2), ("side", 2), ("scores", 5)):
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2100, width]))
onnx.checker.check_model(model)
onnx.save(model, "corners.onnx")
