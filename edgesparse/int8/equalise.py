"""Spread between the channels of an activation moved into the weights behind it, so that one INT8 scale fits them all.

Cross-layer equalisation (Nagel et al., 2019, arXiv:1906.04721): what a depthwise convolution reads is divided by a
factor a channel, and its weights for that channel multiplied by it. The outputs stay the same, every channel fills the
range, and the weights lose nothing, since each of their channels has a scale of its own. The division goes into the
layer before where nothing but a ReLU stands between. Through SiLU, which knows no factors, it becomes a product behind
it, which an engine computes in the same pass.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgesparse.errors import SparsityError
from edgesparse.int8.layers import int8_layers
from edgesparse.model.activations import Batches, stream
from edgesparse.model.bias import set_bias
from edgesparse.model.layers import layer_name
from edgesparse.model.unfold import Product, product
from edgesparse.model.wiring import Wiring, attribute
from edgesparse.progress import Progress

Factors = npt.NDArray[np.float64]
HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
"""f(x / s) = f(x) / s for s above 0."""
LEAST = 2.0**-10
"""The least factor: a channel that is smaller still does not come to fill the range."""
WORTH = 2.0
"""The least ratio of the largest channel to the median one that is worth a product of its own."""


@dataclass(frozen=True)
class Equalised:
    """One tensor: `spread` was its largest channel over its median one, `layers` read it; `folded`: without a new
    operator, since the layer before took the factors."""

    tensor: str
    layers: tuple[str, ...]
    spread: float
    folded: bool


def equalise(
    model: ModelProto, batches: Batches, keep: Collection[str], progress: Progress
) -> tuple[ModelProto, tuple[Equalised, ...]]:
    """A copy of `model`, with the same outputs but for rounding, in which depthwise INT8 layers read even channels.

    `keep` names layers that stay float. A tensor that anything but depthwise convolutions reads stays as it is.
    Raises as `int8_layers`, and CalibrationError for bad batches.
    """
    made = ModelProto()
    made.CopyFrom(model)
    wiring = Wiring(made.graph)
    found = _candidates(made, wiring, keep)
    done = []
    for name, largest in _largest(made, batches, list(found), progress).items():
        alive = largest > 0
        spread = float(largest.max() / np.median(largest[alive])) if alive.any() else 1.0
        if spread < WORTH:
            continue
        factors = np.where(alive, np.maximum(largest / largest.max(), LEAST), 1)
        before = _layer_before(wiring, name)
        for work in found[name]:
            _scale_inputs(wiring, work, factors)
        if before is not None:
            _scale_outputs(wiring, before, 1 / factors)
        else:
            _divide(made, name, found[name], factors)
        done.append(Equalised(name, tuple(layer_name(w.node) for w in found[name]), spread, before is not None))
    return made, tuple(done)


def _candidates(model: ModelProto, wiring: Wiring, keep: Collection[str]) -> dict[str, list[Product]]:
    """Tensors that depthwise convolutions alone read, one of them in INT8, and these layers."""
    int8 = {kernel.reads for kernel in int8_layers(model, wiring, keep)[0]}
    found = {}
    for name in [out for node in wiring.graph.node for out in node.output if out in int8]:
        readers = [_depthwise(wiring, node, name) for node in wiring.consumers[name]]
        works = [work for work in readers if work is not None]
        if len(works) == len(readers) and name not in wiring.outputs:
            found[name] = works
    return found


def _depthwise(wiring: Wiring, node: NodeProto, name: str) -> Product | None:
    if node.op_type != "Conv" or attribute(node, "group", 1) == 1 or name in node.input[1:]:
        return None
    try:
        work = product(wiring, node)
    except SparsityError:
        return None
    return work if work.weight.outputs_inputs[1] == 1 else None


def _largest(model: ModelProto, batches: Batches, names: list[str], progress: Progress) -> dict[str, Factors]:
    """The largest magnitude of each channel of each tensor."""
    found: dict[str, Factors] = {name: np.zeros(1) for name in names}
    for done, values in enumerate(stream(model, batches, names) if names else (), 1):
        progress("measuring channels", done, 0)
        for name, value in values.items():
            spatial = (0, *range(2, value.ndim))
            found[name] = np.maximum(found[name], np.abs(value).max(spatial).astype(np.float64))
    return found


def _layer_before(wiring: Wiring, name: str) -> Product | None:
    """The convolution that makes tensor `name`, with nothing but a ReLU between, and for these readers alone."""
    node = wiring.producer[name]
    if node.op_type in HOMOGENEOUS:
        name = node.input[0]
        if len(wiring.consumers[name]) > 1 or name in wiring.outputs or name not in wiring.producer:
            return None
        node = wiring.producer[name]
    if node.op_type != "Conv":
        return None
    try:
        return product(wiring, node)
    except SparsityError:
        return None


def _scale_inputs(wiring: Wiring, work: Product, factors: Factors) -> None:
    each = np.repeat(factors, work.weight.outputs_inputs[0] // len(factors))
    _scale_rows(wiring, work, each)


def _scale_outputs(wiring: Wiring, work: Product, factors: Factors) -> None:
    _scale_rows(wiring, work, factors)
    bias = wiring.constant(work.node.input[2]) if len(work.node.input) > 2 and work.node.input[2] else None
    if bias is not None:
        set_bias(wiring, work, bias * factors)


def _scale_rows(wiring: Wiring, work: Product, factors: Factors) -> None:
    now = product(wiring, work.node)  # an earlier step may have written its weights
    wiring.store(now.weight.source, now.stored(now.matrix * factors[:, None]))


def _divide(model: ModelProto, name: str, readers: list[Product], factors: Factors) -> None:
    """A product behind tensor `name` that `readers` read in its place."""
    even, by = f"{name}_even", f"{name}_even_by"
    shape = (-1, *[1] * (readers[0].weight.values.ndim - 2))
    model.graph.initializer.append(numpy_helper.from_array((1 / factors).astype(np.float32).reshape(shape), by))
    at = next(i for i, node in enumerate(model.graph.node) if name in node.output)
    model.graph.node.insert(at + 1, helper.make_node("Mul", [name, by], [even], even))
    for work in readers:
        work.node.input[0] = even
