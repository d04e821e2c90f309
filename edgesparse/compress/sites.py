"""Where a rewrite applies, and the ways in which it can be done there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from edgesparse.compress.editor import Editor
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import Array, attribute


class Inapplicable(Exception):
    """A rewrite cannot be done at a site; the text says why and names the node."""

    def __init__(self, node: NodeProto, why: str = "") -> None:
        super().__init__(f"{node.op_type} {layer_name(node)}{why and ' '}{why}")


@dataclass(frozen=True)
class Way:
    """One way to rewrite a site: what it does, in words, and a function that returns the rewritten model.

    The function may raise Inapplicable.
    """

    what: str
    apply: Callable[[], ModelProto]


@dataclass(frozen=True)
class Site:
    """`where`: the nodes' names, the same before and after other rewrites."""

    where: str
    ways: tuple[Way, ...]


Rewrite = Callable[[ModelProto], Iterator[Site]]
"""Yields all sites of a model; once a site is rewritten, the others are out of date."""


@dataclass(frozen=True)
class ConvWeights:
    """The constants of a Conv: `weight` [K, C / group, ...] and `bias` [K], zeros if it has none."""

    weight: Array
    bias: Array
    group: int


def conv_weights(editor: Editor, node: NodeProto) -> ConvWeights | None:
    """The weights of a Conv; None for other nodes, or if they are not stored in the file."""
    if node.op_type != "Conv":
        return None
    weight = editor.wiring.constant(node.input[1])
    bias = editor.wiring.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if weight is None or (len(node.input) > 2 and node.input[2] and bias is None):
        return None
    zeros: Array = weight[:, 0].reshape(len(weight), -1)[:, 0] * 0
    return ConvWeights(weight, zeros if bias is None else bias, attribute(node, "group", 1))


def like(editor: Editor, node: NodeProto, source: str, weights: ConvWeights, stem: str) -> NodeProto:
    """A Conv with the strides, pads and dilations of `node` that reads `source` with other weights."""
    conv = editor.node("Conv", [source, editor.store(weights.weight, f"{stem}.weight")], stem)
    conv.input.append(editor.store(weights.bias, f"{stem}.bias"))
    conv.attribute.extend(part for part in node.attribute if part.name != "group")
    if weights.group != 1:
        conv.attribute.append(_group(weights.group))
    return conv


def _group(count: int):  # type: ignore[no-untyped-def]
    from onnx import helper

    return helper.make_attribute("group", count)
