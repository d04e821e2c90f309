"""Folds splits, slices and shuffles of channels into the weights of the nodes that read them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from onnx import ModelProto, NodeProto

from edgesparse.compress.channels import Index, channel_shuffle, sliced_channels
from edgesparse.compress.editor import Editor
from edgesparse.compress.sites import ConvWeights, Inapplicable, Site, Way, conv_weights, like
from edgesparse.compress.views import PER_VALUE, View, fold
from edgesparse.model.layers import layer_name


def fold_selections(model: ModelProto) -> Iterator[Site]:
    """A site per tensor from which channels are selected, then one for all remaining tensors together."""
    editor = Editor(model, copy=False)
    by_tensor = {name: parts for name in _sources(editor) if (parts := _parts(editor, name))}
    for source, parts in by_tensor.items():
        ways = [Way("folded into the weights that read them", partial(_fold, model, parts))]
        ways.append(Way(f"{len(parts)} convolutions in its place", partial(_divide, model, source, parts)))
        where = layer_name(editor.wiring.producer[next(iter(parts))])
        yield Site(where, tuple(ways))
    if len(by_tensor) > 1:
        every = {name: index for parts in by_tensor.values() for name, index in parts.items()}
        yield Site("all that are left", (Way("folded into the weights", partial(_fold, model, every)),))


Part = tuple[str, Index]
"""The tensor from which channels are selected, and their indices."""


def _sources(editor: Editor) -> list[str]:
    return list(dict.fromkeys(node.input[0] for node in editor.graph.node if node.input))


def _parts(editor: Editor, source: str) -> dict[str, Part]:
    """Every tensor that holds selected channels of `source`."""
    parts: dict[str, Part] = {}
    if editor.wiring.is_constant(source):
        return parts
    for node in editor.wiring.consumers[source]:
        if node.input[0] != source:
            continue
        for name, index in (sliced_channels(editor, node) or {}).items():
            parts[name] = (source, index)
        if (shuffle := channel_shuffle(editor, node)) is not None:
            parts[shuffle.output] = (source, shuffle.index)
    return parts


def _fold(model: ModelProto, parts: dict[str, Part]) -> ModelProto:
    editor = Editor(model, copy=False)
    _refuse_outputs(editor, parts)
    views = {}
    for name, (source, index) in parts.items():
        if source not in views:  # a selection of a selection follows from the first
            views[name] = View(source, index, (editor.shape(source) or (0, 0))[1])
    return fold(model, {name: view for name, view in views.items() if view.tensor not in parts})


def _refuse_outputs(editor: Editor, parts: dict[str, Part]) -> None:
    for name in parts:
        if name in editor.wiring.outputs:
            raise Inapplicable(editor.wiring.producer[name], "is an output")


def _divide(model: ModelProto, source: str, parts: dict[str, Part]) -> ModelProto:
    """One convolution per selection, in place of one whose channels are then selected."""
    editor = Editor(model)
    _refuse_outputs(editor, parts)
    chain = _chain(editor, source, len(parts))
    conv, rest = chain[0], chain[1:]
    weights = conv_weights(editor, conv)
    if weights is None or weights.group != 1:
        raise Inapplicable(conv)
    first = next(node for node in editor.graph.node if node.output[0] == conv.output[0])
    for name, (_, index) in parts.items():
        part = ConvWeights(weights.weight[index], weights.bias[index], 1)
        own = like(editor, conv, conv.input[0], part, f"{name}.conv")
        renamed = {conv.output[0]: editor.insert(own, first)}
        for node in rest:
            copy = NodeProto.FromString(node.SerializeToString())
            copy.name = editor.name(f"{name}.{node.op_type.lower()}")
            copy.input[:] = [renamed.get(i, i) for i in node.input]
            renamed[node.output[0]] = copy.output[0] = editor.name(f"{name}.{node.op_type.lower()}_out")
            editor.insert(copy, first)
        editor.redirect(name, renamed[source])
    editor.tidy()
    return editor.model


def _chain(editor: Editor, source: str, readers: int) -> list[NodeProto]:
    """The convolution that computes `source` and the elementwise operations after it, which nothing else reads."""
    nodes: list[NodeProto] = []
    todo = [source]
    while todo:
        name = todo.pop()
        node = editor.wiring.producer.get(name)
        if node is None or node in nodes:
            continue
        if node.op_type != "Conv":
            if node.op_type not in PER_VALUE:
                raise Inapplicable(node)
            moving = [i for i in node.input if i and not editor.wiring.is_constant(i)]
            constants = [editor.wiring.constant(i) for i in node.input if i and i not in moving]
            if any(c is None or c.size > 1 for c in constants):
                raise Inapplicable(node, "has a constant per channel")
            todo.extend(moving)
        nodes.append(node)
    order = {node.output[0]: i for i, node in enumerate(editor.graph.node)}
    nodes.sort(key=lambda node: order[node.output[0]])
    inside = {name for node in nodes for name in node.output}
    convs = [node for node in nodes if node.op_type == "Conv"]
    read = sum(reader not in nodes for name in inside for reader in editor.wiring.consumers[name])
    if len(convs) != 1 or nodes[0] is not convs[0] or inside & editor.wiring.outputs or read > readers:
        raise Inapplicable(nodes[-1], "has other readers")
    return nodes
