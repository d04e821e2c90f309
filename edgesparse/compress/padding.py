"""Pads the channels of convolutions to whole blocks, so that a Concat of them is written in place and needs no copies.

The added channels are zeros, and whatever reads them has zero weights for them, so the outputs do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from onnx import ModelProto

from edgesparse.compress.cost import BLOCK
from edgesparse.compress.editor import Editor
from edgesparse.compress.sites import ConvWeights, Inapplicable, Site, Way, conv_weights, like
from edgesparse.compress.views import PER_CHANNEL, PER_VALUE, View, fold
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import attribute


def pad_channels(model: ModelProto) -> Iterator[Site]:
    """A site per Concat of channels that are not in whole blocks, then one for all convolutions that write such."""
    editor = Editor(model, copy=False)
    for node in editor.graph.node:
        if node.op_type == "Concat" and attribute(node, "axis") in (1, -3):
            writers = dict.fromkeys(_conv_of(editor, name) for name in node.input if _is_uneven(editor, name))
            if convs := [name for name in writers if name is not None]:
                yield _site(model, layer_name(node), convs)
    outputs = (node.output[0] for node in editor.graph.node if node.op_type == "Conv")
    inner = [name for name in outputs if name not in editor.wiring.outputs and _is_uneven(editor, name)]
    if left := [name for name in inner if _conv_of(editor, name) == name]:
        yield _site(model, "all that are left", left)


def _site(model: ModelProto, where: str, outputs: Sequence[str]) -> Site:
    what = f"{len(outputs)} convolutions padded to whole blocks of {BLOCK} channels"
    return Site(f"padding of {where}", (Way(what, partial(_padded, model, outputs)),))


def _is_uneven(editor: Editor, name: str) -> bool:
    shape = editor.shape(name)
    return shape is not None and len(shape) == 4 and shape[1] % BLOCK > 0


def _conv_of(editor: Editor, name: str) -> str | None:
    """The output of the convolution that decides how many channels tensor `name` has; None if something else does."""
    while (node := editor.wiring.producer.get(name)) is not None:
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1:
            return name
        if node.op_type not in PER_VALUE | PER_CHANNEL | {"Conv"}:
            return None
        name = next((i for i in node.input if i and not editor.wiring.is_constant(i)), "")
    return None


def _padded(model: ModelProto, outputs: Sequence[str]) -> ModelProto:
    editor, views = Editor(model), dict[str, View]()
    for output in outputs:
        conv = editor.wiring.producer[output]
        weights = conv_weights(editor, conv)
        if weights is None or output in editor.wiring.outputs:
            raise Inapplicable(conv, "is an output" if weights else "")
        count = len(weights.bias)
        added = -count % BLOCK
        wide = ConvWeights(
            np.pad(weights.weight, [(0, added), *[(0, 0)] * (weights.weight.ndim - 1)]),
            np.pad(weights.bias, (0, added)),
            weights.group,
        )
        name = editor.insert(like(editor, conv, conv.input[0], wide, f"{output}.padded"), conv)
        views[output] = View(name, np.arange(count), count + added)
    return fold(editor.model, views)
