"""A detector small enough for a test, images it knows, and their labels.

It finds squares of 8x8 pixels, red ones and green ones, on a grid of 8: an average over each cell, one
convolution that compares the colors, and the cells as boxes, laid out like YOLOv8's output: [batch, 4 + 2, 84].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

NAMES = ("red", "green")
SIZE = 64
CELLS = 64 + 16 + 4
node = helper.make_node

Square = tuple[int, int, int]
"""Column and row of its cell, and its class."""


def detector(
    path: Path,
    *,
    names: Sequence[str] | None = NAMES,
    batch: int | str = 1,
    size: tuple[int | str, int | str] = (SIZE, SIZE),
    shift: float = 0.0,
    more: tuple[Sequence[onnx.NodeProto], Mapping[str, NDArray[Any]], str] | None = None,
) -> Path:
    """Write the detector. `shift` moves its boxes, in pixels. `more` are nodes that read `mean`, their weights, and the
    name of their output, which is added to the scores times zero."""
    colours = np.array([[1, -1, -1], [-1, 1, -1]], np.float32).reshape(2, 3, 1, 1)
    weights: dict[str, NDArray[Any]] = {
        "colours": colours,
        "rows": np.array([batch if isinstance(batch, int) else 0, 2, 64], np.int64),
        "padding": np.array([0, 0, 0, 0, 0, CELLS - 64], np.int64),
        "nothing": np.zeros(1, np.float32),
        "one": np.ones(1, np.float32),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "boxes": _boxes(shift),
    }
    nodes = _nodes()
    weights |= {"nothing_": np.array(0, np.float32), "one_": np.array(1, np.float32)}
    if more is not None:
        extra = [
            node("ReduceMax", [more[2]], ["most"], keepdims=0),
            node("Mul", ["most", "nothing"], ["no_more"]),
            node("Add", ["scores", "no_more"], ["all_scores"]),
        ]
        nodes[1:1], nodes[-1:] = more[0], [*extra, node("Concat", ["cells", "all_scores"], ["output0"], axis=1)]
        weights |= more[1]
    outputs = [("output0", (batch, 4 + len(colours), CELLS))]
    return write(path, nodes, weights, [("images", (batch, 3, *size))], outputs, names=names)


def _nodes() -> list[onnx.NodeProto]:
    return [
        node("AveragePool", ["images"], ["mean"], kernel_shape=[8, 8], strides=[8, 8]),
        node("Conv", ["mean", "colours"], ["compared"], "compare"),
        node("Reshape", ["compared", "rows"], ["flat"]),
        node("Clip", ["flat", "nothing_", "one_"], ["clipped"]),
        node("Pad", ["clipped", "padding"], ["scores"]),
        node("Slice", ["scores", "first", "second", "second"], ["some"]),
        node("Mul", ["some", "nothing"], ["zeros"]),
        node("Add", ["zeros", "boxes"], ["cells"]),
        node("Concat", ["cells", "scores"], ["output0"], axis=1),
    ]


def set_domain(path: Path, domain: str) -> Path:
    """In a detector's file: put the convolution into another domain."""
    model = onnx.load(str(path))
    next(node for node in model.graph.node if node.op_type == "Conv").domain = domain
    model.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(model, str(path))
    return path


def chained(path: Path, layers: int = 6) -> Path:
    """The detector with a chain of `layers` layers that can be 2:4 (side1, side2, ...), which adds nothing."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((32, 32 if i else 3, 1, 1)) / 4 for i in range(layers + 1)}
    nodes, name = [], "mean"
    for i in range(layers + 1):
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], f"side{i}"))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        name = f"r{i}"
    return detector(path, more=(nodes, {key: value.astype(np.float32) for key, value in weights.items()}, name))


def _boxes(shift: float) -> NDArray[np.float32]:
    boxes = np.zeros((1, 4, CELLS), np.float32)
    rows, columns = np.mgrid[:8, :8]
    boxes[0, 0, :64] = columns.ravel() * 8 + 4 + shift
    boxes[0, 1, :64] = rows.ravel() * 8 + 4 + shift
    boxes[0, 2:, :64] = 8
    return boxes


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[Any]],
    inputs: Sequence[tuple[str, Sequence[int | str]]],
    outputs: Sequence[tuple[str, Sequence[int | str]]],
    *,
    names: Sequence[str] | None = None,
) -> Path:
    """Write an ONNX file of these parts; inputs and outputs are float32."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if names is not None:
        helper.set_model_props(model, {"names": repr(dict(enumerate(names))), "task": "detect"})
    onnx.save(model, str(path))
    return path


def hold_integers(path: Path) -> None:
    """In a detector's file: a Constant holds the shape `rows`, as integers and not as a tensor."""
    model = onnx.load(str(path))
    rows = next(tensor for tensor in model.graph.initializer if tensor.name == "rows")
    model.graph.node.insert(0, node("Constant", [], ["rows"], value_ints=numpy_helper.to_array(rows).tolist()))
    model.graph.initializer.remove(rows)
    onnx.save(model, str(path))


def held(path: Path) -> set[str]:
    """The attributes in which a file's Constants hold what they are."""
    constants = [each for each in onnx.load(str(path)).graph.node if each.op_type == "Constant"]
    return {attribute.name for each in constants for attribute in each.attribute}


def constant(path: Path, outputs: dict[str, NDArray[np.float32]], size: int = SIZE) -> Path:
    """Write a network that answers every image with `outputs`."""
    weights = {f"{name}_": value for name, value in outputs.items()} | {"nothing": np.zeros(1, np.float32)}
    nodes = [node("ReduceMax", ["images"], ["most"], keepdims=0), node("Mul", ["most", "nothing"], ["zero"])]
    nodes += [node("Add", ["zero", f"{name}_"], [name]) for name in outputs]
    shapes = [(name, value.shape) for name, value in outputs.items()]
    return write(path, nodes, weights, [("images", (1, 3, size, size))], shapes)


def image(squares: Sequence[Square], height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
    """BGR, black but for the squares."""
    image = np.zeros((height, width, 3), np.uint8)
    for column, row, label in squares:
        image[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8, 2 - label] = 255
    return image


def coco_annotations(folder: Path, count: int = 4) -> Path:
    """Write `count` images of squares and their COCO annotations; returns the annotations' path."""
    noise = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for i in range(count):
        cells = noise.choice(64, 6, replace=False)
        squares = [(int(cell % 8), int(cell // 8), int(noise.integers(2))) for cell in cells]
        cv2.imwrite(str(folder / f"{i}.png"), image(squares))
        images.append({"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE})
        for column, row, label in squares:
            box = [column * 8, row * 8, 8, 8]
            boxes.append({"id": len(boxes) + 1, "image_id": i, "category_id": label, "bbox": box, "area": 64})
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    path = folder / "instances_val.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def large_annotations(folder: Path) -> Path:
    """Write an image whose squares have their size only in tiles, and its COCO annotations; returns their path."""
    squares = [(1, 2, 0), (5, 6, 1), (10, 3, 1), (14, 9, 0), (3, 13, 0), (12, 14, 1)]
    cv2.imwrite(str(folder / "large.png"), image(squares, 2 * SIZE, 2 * SIZE))
    boxes = [
        {"id": i + 1, "image_id": 0, "category_id": label, "bbox": [column * 8, row * 8, 8, 8], "area": 64}
        for i, (column, row, label) in enumerate(squares)
    ]
    images = [{"id": 0, "file_name": "large.png", "width": 2 * SIZE, "height": 2 * SIZE}]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    path = folder / "instances_val.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def answer(annotations: Path) -> dict[str, list[list[list[float]]]]:
    """What a network says that finds the squares of the first image in every image."""
    labels = json.loads(annotations.read_text())
    output = np.zeros((1, 6, CELLS), np.float32)
    output[:, :4] = _boxes(0)
    for box in labels["annotations"]:
        if box["image_id"] == 0:
            column, row = box["bbox"][0] // 8, box["bbox"][1] // 8
            output[0, 4 + box["category_id"], row * 8 + column] = 1
    return {"output0": output.tolist()}
