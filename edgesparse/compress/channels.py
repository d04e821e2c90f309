"""Nodes that only select or reorder channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgesparse.compress.editor import Editor
from edgesparse.model.wiring import attribute

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Shuffle:
    """Tensor `output` holds the channels `index` of the chain's first tensor."""

    output: str
    index: Index


def sliced_channels(editor: Editor, node: NodeProto) -> dict[str, Index] | None:
    """The channels in each output of a Split, Slice or Gather along the channel axis; None for other nodes."""
    shape = editor.shape(node.input[0]) if node.input else None
    if shape is None or len(shape) != 4:
        return None
    every = np.arange(shape[1])
    if node.op_type == "Split" and attribute(node, "axis", 0) % 4 == 1:
        ends = np.cumsum([(editor.shape(name) or (0, 0))[1] for name in node.output])
        return dict(zip(node.output, np.split(every, ends[:-1]), strict=True))
    if node.op_type == "Gather" and attribute(node, "axis", 0) % 4 == 1:
        index = editor.wiring.constant(node.input[1])
        return None if index is None or index.ndim != 1 else {node.output[0]: every[index]}
    if node.op_type == "Slice":
        return _slice(editor, node, every)
    return None


def channel_shuffle(editor: Editor, first: NodeProto) -> Shuffle | None:
    """Follow Reshape, Transpose, Reshape and the like from `first` until they amount to a reordering of channels."""
    shape = editor.shape(first.input[0])
    if first.op_type != "Reshape" or shape is None or len(shape) != 4:
        return None
    numbers = np.arange(np.prod(shape)).reshape(shape)
    marks, node = numbers, first
    for _ in range(4):
        if node.op_type == "Reshape":
            target = editor.shape(node.output[0])
            if target is None:
                return None
            marks = marks.reshape(target)
        elif node.op_type == "Transpose":
            marks = marks.transpose(attribute(node, "perm"))
        else:
            return None
        if marks.shape == shape:
            index = marks[0, :, 0, 0] // (shape[2] * shape[3])
            return Shuffle(node.output[0], index) if np.array_equal(marks, numbers[:, index]) else None
        after = editor.wiring.consumers[node.output[0]]
        if len(after) != 1 or node.output[0] in editor.wiring.outputs:
            return None
        node = after[0]
    return None


def _slice(editor: Editor, node: NodeProto, every: Index) -> dict[str, Index] | None:
    constants = [editor.wiring.constant(name) if name else None for name in node.input[1:]]
    if len(constants) < 3 or any(c is None or c.size != 1 for c in constants):
        return None
    start, end, axis = (int(c.item()) for c in constants[:3] if c is not None)
    step = int(constants[3].item()) if len(constants) > 3 and constants[3] is not None else 1
    return {node.output[0]: every[start:end:step]} if axis % 4 == 1 and step > 0 else None
