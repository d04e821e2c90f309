"""Write fastest.onnx: the demo model with its boxes rewritten into FastestDet's output."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELLS, STRIDE, SIZE, CLASSES = 20, 16, 320, 5

model = onnx.load(str(Path(__file__).parents[2] / "edgesparse" / "demo" / "parts_dense.onnx"))
graph = model.graph
rows = graph.output[0].name  # [1, 4 + 5, 2100]: center x, center y, width, height in pixels, then scores


def constant(name: str, values: object, dtype: type = np.float32) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name


def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
    graph.node.append(helper.make_node(op, inputs, [output], **attributes))
    return output


def ints(name: str, values: object) -> str:
    return constant(name, values, np.int64)


# The best of the four 8-pixel cells in each 16-pixel cell: [9, 400, 4] to [9, 400].
fine = add("Slice", [rows, ints("from", [0]), ints("to", [4 * CELLS**2]), ints("axis", [2])], "fine")
split = add("Reshape", [fine, ints("split", [4 + CLASSES, CELLS, 2, CELLS, 2])], "by_two")
order = add("Transpose", [split], "ordered", perm=[0, 1, 3, 2, 4])
quads = add("Reshape", [order, ints("quad", [4 + CLASSES, CELLS**2, 4])], "quads")
scores = add("Slice", [quads, ints("first", [4]), ints("last", [4 + CLASSES]), ints("rows_axis", [0])], "quad_scores")
best = add("ArgMax", [add("ReduceMax", [scores], "best_scores", axes=[0], keepdims=0)], "best", axis=1, keepdims=1)
index = add("Expand", [best, ints("all_rows", [4 + CLASSES, CELLS**2, 1])], "index")
cells = add("Squeeze", [add("GatherElements", [quads, index], "cell_values", axis=2), ints("last_axis", [2])], "cells")
add("Split", [cells, ints("parts", [2, 2, CLASSES])], "center", axis=0)
graph.node[-1].output.extend(["side", "chances"])

# FastestDet's terms: objectness, atanh of the offset from the cell, logit of the share of the input, softmax.
y, x = np.mgrid[:CELLS, :CELLS].reshape(2, -1)
offset = add(
    "Sub", [add("Div", ["center", constant("stride", STRIDE)], "in_cells"), constant("grid", [x, y])], "offset"
)
limited = add("Clip", [offset, constant("low", -0.999), constant("high", 0.999)], "limited")
share = add("Clip", [add("Div", ["side", constant("size", SIZE)], "share"), constant("least", 1e-4), "high"], "shares")
odds = add("Div", [share, add("Sub", [constant("one", 1.0), share], "rest")], "odds")
objectness = add("ReduceMax", ["chances"], "objectness", axes=[0], keepdims=1)
total = add("ReduceSum", ["chances", ints("first_axis", [0])], "total", keepdims=1)
softmax = add("Div", ["chances", total], "softmax")
terms = [objectness, add("Atanh", [limited], "angles"), add("Log", [odds], "logits"), softmax]
add("Reshape", [add("Concat", terms, "table", axis=0), ints("map", [1, 5 + CLASSES, CELLS, CELLS])], "758")
del graph.output[:]
graph.output.append(helper.make_tensor_value_info("758", TensorProto.FLOAT, [1, 5 + CLASSES, CELLS, CELLS]))
onnx.checker.check_model(model)
onnx.save(model, "fastest.onnx")
