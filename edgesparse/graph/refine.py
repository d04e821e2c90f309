"""One pass over a network: each layer's weights rounded, and its bias set, on what the INT8 network really feeds it.

In the order of execution, each layer is fitted to what the float network puts out there, so a layer also makes good,
as far as its grid allows, what earlier ones lost: bias correction and second-order rounding at once (`rounding`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.graph.activations import Batches, Tape
from edgesparse.graph.bias import has_bias, set_bias
from edgesparse.graph.int8_layers import int8_layers
from edgesparse.graph.placement import Placement
from edgesparse.graph.quantize import quantize
from edgesparse.graph.rounding import Rounded, Sums, round_weights
from edgesparse.graph.sparsity import layer_name
from edgesparse.graph.unfold import Product, product
from edgesparse.graph.wiring import Wiring

Progress = Callable[[str, int, int], None]
POSITIONS = 4096
"""Positions of a layer's output that count, of each batch, spread over all: more change the sums by next to nothing."""


@dataclass(frozen=True)
class RefinedLayer:
    """`error`: what the layer's output lost, by its own rounding and by all before it, as a share of its variance;
    `nearest`: what it would have lost with its weights rounded to the nearest."""

    name: str
    error: float
    nearest: float


@dataclass(frozen=True)
class Refined:
    """`model`: float, its INT8 layers' weights on the grids of `weight_scales` (by layer name, one an output)."""

    model: ModelProto
    weight_scales: Mapping[str, npt.NDArray[np.float32]]
    layers: tuple[RefinedLayer, ...]


def refine(
    model: ModelProto,
    scales: Mapping[str, float],
    batches: Batches,
    keep: Collection[str],
    progress: Progress,
    placement: Placement = "fuse",
) -> Refined:
    """A copy of `model` with the weights of its INT8 layers rounded on what `batches` feed them.

    `scales` are those of the activations in this `placement` (`quantize`). Layers that stay float get a new bias alone.
    Raises as `quantize`, and CalibrationError where the batches change between two calls.
    """
    made = ModelProto()
    made.CopyFrom(model)
    wiring, layers, scales_of = Wiring(made.graph), [], {}
    with TemporaryDirectory(prefix="edgesparse-") as folder:
        dense = _tape(model, Path(folder, "float"), batches)
        small = _tape(_rounding_activations(model, scales, keep, placement), Path(folder, "int8"), batches)
        if dense.count != small.count:
            raise CalibrationError("the calibration pictures changed between two passes: give the same ones each time")
        kernels = {kernel.node.output[0] for kernel in int8_layers(model, Wiring(model.graph), keep)[0]}
        todo = [work for node in small.nodes if (work := _fitted(small.wiring, node)) is not None]
        for done, work in enumerate(todo):
            progress("rounding weights", done, len(todo))
            inner = work.node.output[0] in kernels
            fit, bias = _fit(dense, small, work, inner)
            for place in (small.wiring, wiring):
                _store(place, work.node.output[0], fit if inner else None, bias)
            if inner:
                scales_of[layer_name(work.node)] = fit.scale
                layers.append(RefinedLayer(layer_name(work.node), fit.error, fit.nearest))
        progress("rounding weights", len(todo), len(todo))
    return Refined(made, scales_of, tuple(layers))


def _tape(model: ModelProto, folder: Path, batches: Batches) -> Tape:
    own = ModelProto()
    own.CopyFrom(model)
    folder.mkdir()
    tape = Tape(own, folder)
    tape.load(batches)
    return tape


def _rounding_activations(
    model: ModelProto, scales: Mapping[str, float], keep: Collection[str], placement: Placement
) -> ModelProto:
    """`model` with Q/DQ on its activations; its layers read their float weights."""
    rounding, _ = quantize(model, scales, keep=keep, placement=placement)
    wiring = Wiring(rounding.graph)
    at = {kernel.node.output[0]: kernel.at for kernel in int8_layers(model, Wiring(model.graph), keep)[0]}
    for node in rounding.graph.node:
        if node.output[0] in at:
            dequantize = wiring.producer[node.input[at[node.output[0]]]]
            node.input[at[node.output[0]]] = wiring.producer[dequantize.input[0]].input[0]
    return rounding


def _fitted(wiring: Wiring, node: NodeProto) -> Product | None:
    """The layer as a product; None where its weights are shared, transposed or none, and stay as they are."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    try:
        work = product(wiring, node)
        has_bias(wiring, work)
    except SparsityError:
        return None
    return work


def _fit(dense: Tape, small: Tape, work: Product, round_too: bool) -> tuple[Rounded, npt.NDArray[np.float64]]:
    out = work.node.output[0]
    small.run_to(_place(small, out))
    dense.run_to(_place(dense, out) + 1, keep=[out])
    sums, random = Sums.of(work), np.random.default_rng(0)
    for x, y in zip(small.read(work.reads), dense.read(out), strict=True):
        inputs, targets = work.inputs(x) * np.float32(work.scale), work.outputs(y)
        if len(inputs) > POSITIONS:
            some = random.choice(len(inputs), POSITIONS, replace=False)
            inputs, targets = inputs[some], targets[some]
        sums.add(inputs, targets)
    intercept = has_bias(small.wiring, work)
    fit = round_weights(sums, work.matrix, intercept)
    bias = sums.bias(fit.weight if round_too else work.matrix) if intercept else np.empty(0)
    return fit, bias


def _place(tape: Tape, out: str) -> int:
    return next(i for i, node in enumerate(tape.nodes) if node.output[0] == out)


def _store(wiring: Wiring, out: str, fit: Rounded | None, bias: npt.NDArray[np.float64]) -> None:
    """Write a layer's new weights and bias into a graph; the nodes that make `out` are alike in all of them."""
    work = product(wiring, wiring.producer[out])
    if fit is not None:
        wiring.store(work.weight.source, work.stored(fit.weight))
    if bias.size:
        set_bias(wiring, work, bias)
