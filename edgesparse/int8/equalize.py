"""Moves the spread between an activation's channels into the weights that read it, so that one INT8 scale fits all.

Cross-layer equalization (Nagel et al., 2019, arXiv:1906.04721): the input of a depthwise convolution is divided by one
factor per channel, and the weights for that channel are multiplied by it. The outputs stay the same, every channel
fills the range, and the weights lose nothing, since each of their channels has its own scale. The division is folded
into the previous layer if at most a ReLU is in between.

SiLU does not commute with factors. A product after it is no solution: TensorRT 8.5.3 ends with an internal error if one
precedes Q/DQ. Layers that read such a tensor stay float, which costs little: depthwise convolutions hold a small share
of a network's multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

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
"""Smallest factor: a channel that would need a smaller one does not fill the range."""
WORTH = 2.0
"""Smallest ratio of the largest channel to the median channel that matters."""


@dataclass(frozen=True)
class EqualizedTensor:
    """`spread`: the largest channel over the median one, before. `layers`: those that read the tensor."""

    tensor: str
    layers: tuple[str, ...]
    spread: float


@dataclass(frozen=True)
class Equalized:
    """`model` has the outputs of the original except for rounding. `uneven`: the layers that read a tensor whose
    channels differ but could not be equalized, each with its spread: in INT8 they would lose most of their channels.
    """

    model: ModelProto
    tensors: tuple[EqualizedTensor, ...]
    uneven: Mapping[str, float]


def equalize(model: ModelProto, batches: Batches, keep: Collection[str], progress: Progress) -> Equalized:
    """Equalize the channels that depthwise INT8 layers read, in a copy of `model`.

    `keep`: names of layers that stay float. A tensor that any other operator reads is left unchanged. Raises what
    `int8_layers` raises, and CalibrationError for bad batches.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    wiring = Wiring(copy.graph)
    candidates = _candidates(copy, wiring, keep)
    equalized, uneven = [], {}
    for name, largest in _largest(copy, batches, list(candidates), progress).items():
        alive = largest > 0
        spread = float(largest.max() / np.median(largest[alive])) if alive.any() else 1.0
        if spread < WORTH:
            continue
        readers = tuple(layer_name(work.node) for work in candidates[name])
        before = _layer_before(wiring, name)
        if before is None:
            uneven.update(dict.fromkeys(readers, spread))
            continue
        factors = np.where(alive, np.maximum(largest / largest.max(), LEAST), 1)
        for work in candidates[name]:
            _scale_inputs(wiring, work, factors)
        _scale_outputs(wiring, before, 1 / factors)
        equalized.append(EqualizedTensor(name, readers, spread))
    return Equalized(copy, tuple(equalized), uneven)


def evenable(model: ModelProto) -> dict[str, list[str]]:
    """Return the tensors that `equalize` can even out, if their channels differ, with the depthwise layers that read
    each. Raises what `int8_layers` raises.
    """
    wiring = Wiring(model.graph)
    candidates = _candidates(model, wiring, ())
    return {
        name: [layer_name(work.node) for work in works]
        for name, works in candidates.items()
        if _layer_before(wiring, name) is not None
    }


def _candidates(model: ModelProto, wiring: Wiring, keep: Collection[str]) -> dict[str, list[Product]]:
    """Return tensors that only depthwise convolutions read, at least one of them in INT8, and these layers."""
    int8 = {kernel.reads for kernel in int8_layers(model, wiring, keep)[0]}
    candidates = {}
    for name in [out for node in wiring.graph.node for out in node.output if out in int8]:
        readers = [_depthwise(wiring, node, name) for node in wiring.consumers[name]]
        works = [work for work in readers if work is not None]
        if len(works) == len(readers) and name not in wiring.outputs:
            candidates[name] = works
    return candidates


def _depthwise(wiring: Wiring, node: NodeProto, name: str) -> Product | None:
    if node.op_type != "Conv" or attribute(node, "group", 1) == 1 or name in node.input[1:]:
        return None
    try:
        work = product(wiring, node)
    except SparsityError:
        return None
    return work if work.weight.outputs_inputs[1] == 1 else None


def _largest(model: ModelProto, batches: Batches, names: list[str], progress: Progress) -> dict[str, Factors]:
    """Return the largest magnitude of each channel of each tensor."""
    largest: dict[str, Factors] = {name: np.zeros(1) for name in names}
    for done, values in enumerate(stream(model, batches, names) if names else (), 1):
        progress("measuring channels", done, 0)
        for name, value in values.items():
            spatial = (0, *range(2, value.ndim))
            largest[name] = np.maximum(largest[name], np.abs(value).max(spatial).astype(np.float64))
    return largest


def _layer_before(wiring: Wiring, name: str) -> Product | None:
    """Return the convolution that writes `name`, with at most a ReLU in between and no other readers, or None."""
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
    current = product(wiring, work.node)  # an earlier step may have changed its weights
    wiring.store(current.weight.source, current.stored(current.matrix * factors[:, None]))
