"""Removes data movement that cancels out or repeats; slices of pixels become a strided convolution."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from edgesparse.compress.editor import Editor
from edgesparse.compress.sites import Site, Way, conv_weights
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import attribute

SHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Nodes that keep the order of values."""


def drop_moves(model: ModelProto) -> Iterator[Site]:
    """A site per node that moves nothing, or whose work the next node undoes or repeats."""
    editor = Editor(model, copy=False)
    for node in editor.graph.node:
        if (source := _needless(editor, node)) is not None and node.output[0] not in editor.wiring.outputs:
            yield Site(layer_name(node), (Way("moves nothing", partial(_skip, model, node.output[0], source)),))
        elif _joins(editor, node):
            yield Site(layer_name(node), (Way("joined with the one before", partial(_join, model, node.output[0])),))


def fold_focus(model: ModelProto) -> Iterator[Site]:
    """A site per convolution of a Concat of pixel slices (Focus): a strided convolution reads the pixels directly."""
    editor = Editor(model, copy=False)
    for node in editor.graph.node:
        weights = conv_weights(editor, node)
        if weights is None or weights.group != 1 or any(s != 1 for s in attribute(node, "strides", [1])):
            continue
        if (
            any(d != 1 for d in attribute(node, "dilations", [1]))
            or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET"
        ):
            continue
        offsets = _offsets(editor, node)
        if offsets is not None:
            what = "slices of pixels folded into a strided convolution"
            yield Site(layer_name(node), (Way(what, partial(_stride, model, node.output[0])),))


def _needless(editor: Editor, node: NodeProto) -> str | None:
    """The tensor that `node` passes on unchanged, if any."""
    if node.op_type == "Identity":
        return node.input[0]
    before = editor.shape(node.input[0]) if node.input else None
    if node.op_type in SHAPES and before is not None and before == editor.shape(node.output[0]):
        return node.input[0]
    if node.op_type == "Transpose" and attribute(node, "perm") == sorted(attribute(node, "perm")):
        return node.input[0]
    return None


def _joins(editor: Editor, node: NodeProto) -> bool:
    """Whether `node` and the node that it reads are both shape changes, or both transposes."""
    before = editor.wiring.producer.get(node.input[0]) if node.input else None
    if before is None or not before.input:
        return False
    if node.op_type == "Transpose":
        return before.op_type == "Transpose"
    return node.op_type in SHAPES and before.op_type in SHAPES and editor.shape(node.output[0]) is not None


def _skip(model: ModelProto, name: str, source: str) -> ModelProto:
    editor = Editor(model)
    editor.redirect(name, source)
    editor.tidy()
    return editor.model


def _join(model: ModelProto, name: str) -> ModelProto:
    editor = Editor(model)
    node = editor.wiring.producer[name]
    before = editor.wiring.producer[node.input[0]]
    if node.op_type == "Transpose":
        order = [attribute(before, "perm")[i] for i in attribute(node, "perm")]
        joined = helper.make_node("Transpose", [before.input[0]], [name], node.name, perm=order)
    else:
        shape = np.array(editor.shape(name), np.int64)
        joined = helper.make_node("Reshape", [before.input[0], editor.store(shape, f"{name}.shape")], [name], node.name)
    node = editor.wiring.producer[name]
    node.CopyFrom(joined)
    editor.tidy()
    return editor.model


def _offsets(editor: Editor, conv: NodeProto) -> tuple[str, int, list[tuple[int, int]]] | None:
    """For a convolution of a Concat of slices: the sliced tensor, the step, and each slice's first (row, column)."""
    concat = editor.wiring.producer.get(conv.input[0])
    if concat is None or concat.op_type != "Concat" or attribute(concat, "axis") not in (1, -3):
        return None
    traced = [_trace(editor, name) for name in concat.input]
    known = [part for part in traced if part is not None]
    if len(known) < len(traced) or len({(source, step) for source, step, _, _ in known}) != 1:
        return None
    source, step = known[0][:2]
    shape = editor.shape(source)
    if step < 2 or shape is None or len(shape) != 4 or shape[2] % step or shape[3] % step:
        return None
    return source, step, [(row, column) for _, _, row, column in known]


def _trace(editor: Editor, name: str) -> tuple[str, int, int, int] | None:
    """Follow slices of rows and columns back to their source. Returns source, step, first row and first column."""
    first, steps = {2: 0, 3: 0}, {2: 1, 3: 1}
    while (node := editor.wiring.producer.get(name)) is not None and node.op_type == "Slice":
        constants = [editor.wiring.constant(i) for i in node.input[1:]]
        if len(constants) != 4 or any(c is None for c in constants):
            return None
        whole = editor.shape(node.input[0]) or ()
        for start, end, axis, step in zip(*(c.tolist() for c in constants if c is not None), strict=True):
            if axis % 4 not in first or steps[axis % 4] != 1 or step < 1 or start < 0 or end < whole[axis % 4]:
                return None
            first[axis % 4], steps[axis % 4] = start, step
        name = node.input[0]
    return (name, steps[2], first[2], first[3]) if steps[2] == steps[3] else None


def _stride(model: ModelProto, name: str) -> ModelProto:
    editor = Editor(model)
    conv = editor.wiring.producer[name]
    weights, slices = conv_weights(editor, conv), _offsets(editor, conv)
    assert weights is not None and slices is not None
    source, step, offsets = slices
    count, channels, *kernel = weights.weight.shape
    each = channels // len(offsets)
    wide = np.zeros((count, each, kernel[0] * step, kernel[1] * step), weights.weight.dtype)
    for i, (row, column) in enumerate(offsets):
        wide[:, :, row::step, column::step] += weights.weight[:, i * each : (i + 1) * each]
    pads = [step * pad for pad in attribute(conv, "pads", [0] * 4)]
    inputs = [source, editor.store(wide, f"{name}.weight"), editor.store(weights.bias, f"{name}.bias")]
    shape: dict[str, Any] = {"kernel_shape": list(wide.shape[2:]), "strides": [step] * 2, "pads": pads}
    editor.wiring.producer[name].CopyFrom(helper.make_node("Conv", inputs, [name], conv.name, **shape))
    editor.tidy()
    return editor.model
