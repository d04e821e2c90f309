"""Removes the decoding from a detector: its outputs become the maps of its last convolutions."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, StringStringEntryProto, TensorProto, helper

from edgesparse.compress.editor import Editor
from edgesparse.errors import ModelError
from edgesparse.model.layers import layer_name
from edgesparse.model.weights import LAYERS, MOVES
from edgesparse.runtime.heads.recognize import HEAD_KEY

FAMILIES = {
    "yolov8": "yolov8-maps",
    "yolox": "yolox-maps",
    "yolox-decoded": "yolox-maps",
    "nanodet": "nanodet-maps",
    "fastestdet": "fastestdet-maps",
}
"""The head of a model with decoding -> the head that reads its maps."""


def cut(model: ModelProto) -> ModelProto:
    """Return a copy whose outputs are the maps of the last convolutions, in the order in which its outputs read them.

    Raises ModelError, naming the node, if an output is not computed from convolutions.
    """
    editor = Editor(model)
    names = maps_of(editor)
    outputs = []
    for name in names:
        shape = editor.shape(name)
        if shape is None or len(shape) != 4:
            raise ModelError(f"{name} is no map of static shape")
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    del editor.graph.output[:]
    editor.graph.output.extend(outputs)
    editor.changed()
    editor.tidy()
    return editor.model


def set_head(model: ModelProto, head: str) -> None:
    """Write the head's name into the model's metadata, where `recognize.choose` looks for it."""
    kept = [entry for entry in model.metadata_props if entry.key != HEAD_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend([*kept, StringStringEntryProto(key=HEAD_KEY, value=head)])


def maps_of(editor: Editor) -> list[str]:
    """The outputs of the last convolutions, in the order in which the model's outputs read them.

    Raises ModelError, naming the node, if an output is computed from anything else.
    """
    names: dict[str, None] = {}
    visited = set[str]()
    todo = [value.name for value in reversed(editor.graph.output)]
    while todo:
        name = todo.pop()
        if name in visited or not name or editor.wiring.is_constant(name):
            continue
        visited.add(name)
        node = editor.wiring.producer.get(name)
        if node is None:
            raise ModelError(f"the outputs read the input {name} without a convolution")
        if node.op_type == "Conv" and not _sums_bins(editor, node):
            names[name] = None
        elif node.op_type in LAYERS and node.op_type != "Conv":
            raise ModelError(f"the outputs come from {node.op_type} {layer_name(node)}, needed a Conv")
        else:
            todo.extend(reversed(node.input))
    return list(names)


def _sums_bins(editor: Editor, conv: NodeProto) -> bool:
    """Whether `conv` only takes the mean over the bins of a Softmax, as YOLOv8's decoding does."""
    node = editor.wiring.producer.get(conv.input[0])
    while node is not None and node.op_type in MOVES:
        node = editor.wiring.producer.get(node.input[0])
    return node is not None and node.op_type == "Softmax"
