"""Merges convolutions that read the same tensor, and those that read their outputs, as far as that is faster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.compress.editor import Editor
from edgesparse.compress.sites import ConvWeights, Inapplicable, Site, Way, conv_weights, like
from edgesparse.compress.views import View, fold
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import attribute

DEPTH = 4
"""The most consecutive convolutions that are merged."""
GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "auto_pad")


def merge_parallel(model: ModelProto) -> Iterator[Site]:
    """A site per tensor that several similar convolutions read: these alone, or with the convolutions after them."""
    for convs in _groups(Editor(model, copy=False)):
        outputs = [conv.output[0] for conv in convs]
        what = f"{len(convs)} convolutions of one tensor merged, up to {{}} deep"
        ways = [Way(what.format(depth), partial(_merged, model, outputs, depth)) for depth in range(1, DEPTH + 1)]
        yield Site(", ".join(map(layer_name, convs)), tuple(ways))


def _merged(model: ModelProto, outputs: Sequence[str], depth: int) -> ModelProto:
    """The model with the convolutions that write `outputs` merged, then those that read them, to `depth` in total."""
    first, todo = Editor(model, copy=False).wiring.producer[outputs[0]], [list(outputs)]
    for level in range(depth):
        if not todo:
            raise Inapplicable(first, f"is not followed by {depth} alike")
        merged = []
        for group in todo:
            model, name = _merge(model, group)
            merged.append(name)
        if level < depth - 1:
            editor = Editor(model, copy=False)
            todo = [[c.output[0] for c in convs] for convs in _groups(editor) if _follows(editor, convs[0], merged)]
    return model


def _merge(model: ModelProto, outputs: Sequence[str]) -> tuple[ModelProto, str]:
    editor = Editor(model)
    convs = [editor.wiring.producer[name] for name in outputs]
    weights = [conv_weights(editor, conv) for conv in convs]
    known = [w for w in weights if w is not None]
    stacked = ConvWeights(np.concatenate([w.weight for w in known]), np.concatenate([w.bias for w in known]), 1)
    merged = like(editor, convs[0], convs[0].input[0], stacked, f"{outputs[0]}.merged")
    first = next(node for node in editor.graph.node if node.output[0] in outputs)
    name = editor.insert(merged, first)
    if editor.wiring.outputs.intersection(outputs):
        _replace_outputs(editor, outputs, name)
        editor.tidy()
        return editor.model, name
    size, at, views = len(stacked.bias), 0, {}
    for output, part in zip(outputs, known, strict=True):
        views[output] = View(name, np.arange(at, at + len(part.bias)), size)
        at += len(part.bias)
    return fold(editor.model, views), name


def _replace_outputs(editor: Editor, outputs: Sequence[str], name: str) -> None:
    """Replace the first of `outputs` by `name`, which has the channels of all of them."""
    values = [value for value in editor.graph.output if value.name not in outputs[1:]]
    channels = sum((editor.shape(output) or (0, 0))[1] for output in outputs)
    for value in values:
        if value.name == outputs[0]:
            value.name = name
            value.type.tensor_type.shape.dim[1].dim_value = channels
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del editor.graph.output[:]
    editor.graph.output.extend(copies)
    editor.changed()


def _groups(editor: Editor) -> list[list[NodeProto]]:
    """Groups of two or more convolutions of one tensor with the same kernel size, strides and pads."""
    groups: defaultdict[tuple[object, ...], list[NodeProto]] = defaultdict(list)
    for node in editor.graph.node:
        weights = conv_weights(editor, node)
        if weights is None or weights.group != 1:
            continue
        geometry = tuple(str(attribute(node, name)) for name in GEOMETRY)
        is_output = node.output[0] in editor.wiring.outputs
        groups[(node.input[0], weights.weight.shape[2:], geometry, is_output)].append(node)
    several = (_as_read(editor, group) for group in groups.values() if len(group) > 1)
    return [group for group in several if group]


def _as_read(editor: Editor, convs: list[NodeProto]) -> list[NodeProto]:
    """Sort convolutions whose outputs are the model's by the order in which a head joins them.

    A head joins the channels of all outputs of one size in their order. Empty if another output comes between them.
    """
    names = [value.name for value in editor.graph.output]
    if convs[0].output[0] not in names:
        return convs
    size = (editor.shape(convs[0].output[0]) or ())[2:]
    level = [name for name in names if (editor.shape(name) or ())[2:] == size]
    convs = sorted(convs, key=lambda conv: level.index(conv.output[0]))
    own = [conv.output[0] for conv in convs]
    start = level.index(own[0])
    return convs if level[start : start + len(own)] == own else []


def _follows(editor: Editor, conv: NodeProto, names: Sequence[str]) -> bool:
    """Whether `conv` reads one of the tensors `names`, directly or through elementwise operations."""
    todo = [conv.input[0]]
    while todo:
        name = todo.pop()
        if name in names:
            return True
        node = editor.wiring.producer.get(name)
        if node is not None and node.op_type != "Conv":
            todo.extend(i for i in node.input if i and not editor.wiring.is_constant(i))
    return False
