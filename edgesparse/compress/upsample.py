"""Moves a 1x1 convolution of an upsampled map to the small map, dividing a Concat in front of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.compress.cost import BLOCK
from edgesparse.compress.editor import Editor
from edgesparse.compress.sites import ConvWeights, Inapplicable, Site, Way, conv_weights, like
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import attribute


def move_resize(model: ModelProto) -> Iterator[Site]:
    """A site per 1x1 convolution that reads a nearest Resize, possibly through a Concat, or a Concat that copies."""
    editor = Editor(model, copy=False)
    for node in editor.graph.node:
        weights = conv_weights(editor, node)
        if weights is None or weights.group != 1 or node.output[0] in editor.wiring.outputs:
            continue
        name, parts = node.output[0], _parts(editor, node)
        small = [part for part in parts if _resize(editor, part) is not None]
        is_point = _is_point(node, weights)
        ways = []
        if small and is_point:
            ways.append(Way("1x1 convolution in front of Resize", partial(_move, model, name)))
        if len(parts) > 1 and is_point and any(_channels(editor, part) % BLOCK for part in parts):
            ways.append(Way("a convolution per input of Concat", partial(_divide, model, name)))
        if ways:
            yield Site(layer_name(node), tuple(ways))


def _is_point(node: NodeProto, weights: ConvWeights) -> bool:
    """Whether each output depends on a single position of the input, the same one."""
    plain = not any(attribute(node, "pads", [0])) and all(s == 1 for s in attribute(node, "strides", [1]))
    return weights.weight.shape[2:] == (1, 1) and plain and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"


def _parts(editor: Editor, conv: NodeProto) -> list[str]:
    """The tensors whose channels `conv` reads, in order."""
    source = editor.wiring.producer.get(conv.input[0])
    if source is not None and source.op_type == "Concat" and attribute(source, "axis") in (1, -3):
        return list(source.input)
    return [conv.input[0]]


def _resize(editor: Editor, name: str) -> NodeProto | None:
    """The Resize that computes tensor `name` by repeating the pixels of a smaller map."""
    node = editor.wiring.producer.get(name)
    if node is None or node.op_type not in ("Resize", "Upsample") or attribute(node, "mode", b"nearest") != b"nearest":
        return None
    before, after = editor.shape(node.input[0]), editor.shape(name)
    same = before is not None and after is not None and len(before) == 4 and before[:2] == after[:2]
    has_sizes = len(node.input) > 3 and node.input[3]
    return node if same and not has_sizes and before is not None and after is not None and before < after else None


def _move(model: ModelProto, name: str) -> ModelProto:
    editor = Editor(model)
    conv = editor.wiring.producer[name]
    groups: list[list[str]] = []
    for part in _parts(editor, conv):
        if _resize(editor, part) is not None or not groups or _resize(editor, groups[-1][0]) is not None:
            groups.append([part])
        else:
            groups[-1].append(part)
    return _sum(editor, conv, groups)


def _divide(model: ModelProto, name: str) -> ModelProto:
    editor = Editor(model)
    conv = editor.wiring.producer[name]
    return _sum(editor, conv, [[part] for part in _parts(editor, conv)])


def _sum(editor: Editor, conv: NodeProto, groups: Sequence[Sequence[str]]) -> ModelProto:
    """Replace `conv` by the sum of a convolution per group of its inputs, each in front of its Resize, if any."""
    weights = conv_weights(editor, conv)
    assert weights is not None
    name, total = conv.output[0], ""
    resizes = {name: _resize(editor, name) for group in groups for name in group}
    sizes = [[_channels(editor, part) for part in group] for group in groups]
    ends = np.cumsum([sum(size) for size in sizes])
    order = sorted(range(len(groups)), key=lambda i: resizes[groups[i][0]] is None)
    for i in order:
        last = i == order[-1]
        index = np.arange(ends[i] - sum(sizes[i]), ends[i])
        part = ConvWeights(weights.weight[:, index], weights.bias * np.asarray(last, weights.bias.dtype), 1)
        resize = resizes[groups[i][0]]
        if resize is not None and len(groups[i]) == 1:
            own = editor.insert(like(editor, conv, resize.input[0], part, f"{name}.small"), conv)
            copy = NodeProto.FromString(resize.SerializeToString())
            copy.input[0], copy.name = own, editor.name(f"{name}.resize")
            copy.output[0] = editor.name(f"{name}.resized")
            own = editor.insert(copy, conv)
        else:
            own = editor.insert(like(editor, conv, _joined(editor, conv, groups[i]), part, f"{name}.part"), conv)
        total = own if not total else editor.insert(editor.node("Add", [total, own], f"{name}.sum"), conv)
    editor.redirect(name, total)
    editor.tidy()
    return editor.model


def _joined(editor: Editor, conv: NodeProto, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return editor.insert(editor.node("Concat", list(names), f"{conv.output[0]}.joined", axis=1), conv)


def _channels(editor: Editor, name: str) -> int:
    shape = editor.shape(name)
    if shape is None:
        raise Inapplicable(editor.wiring.producer[name], "has an open shape")
    return shape[1]
