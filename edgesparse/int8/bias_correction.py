"""Biases that compensate for the mean error of INT8, layer by layer, on the inputs that each layer gets in INT8.

Bias correction (Nagel et al., 2019, arXiv:1906.04721), measured rather than derived: in order of execution, each
layer's bias is set so that its outputs have the same mean as in the float network, with its inputs and weights rounded
and all earlier biases set. An image whose outputs vary far more than usual counts less: what INT8 clips there is
missing there alone. Layers that stay float keep their biases: a head's boxes and scores are only read at a few
places, and their means are those of the background.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from edgesparse.disk import scratch
from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.int8.layers import int8_layers
from edgesparse.int8.placement import Placement
from edgesparse.int8.quantize import quantize
from edgesparse.model.activations import Batches, Tape
from edgesparse.model.bias import has_bias, set_bias
from edgesparse.model.layers import layer_name
from edgesparse.model.unfold import Product, product
from edgesparse.model.weights import weight_of
from edgesparse.model.wiring import Array, Wiring
from edgesparse.progress import Progress

POSITIONS = 4096
"""Most positions of a layer's output to use per batch: more hardly change the means."""


@dataclass(frozen=True)
class Corrected:
    """`model` is float, with biases for INT8. `errors`: the remaining loss of each INT8 layer's output, by its own and
    earlier rounding, as a share of its variance.
    """

    model: ModelProto
    errors: Mapping[str, float]


def correct_biases(
    model: ModelProto,
    scales: Mapping[str, float],
    batches: Batches,
    keep: Collection[str],
    progress: Progress,
    placement: Placement = "fuse",
) -> Corrected:
    """A copy of `model` with new biases in its INT8 layers, for `quantize` with the same arguments.

    `scales`: of the activations. Layers that cannot have a bias, transposed convolutions and layers that share their
    weights are left unchanged. Raises what `quantize` raises, and CalibrationError if the batches change between two
    calls.
    """
    corrected = ModelProto()
    corrected.CopyFrom(model)
    wiring, errors = Wiring(corrected.graph), dict[str, float]()
    with scratch() as folder:
        dense = _tape(model, folder / "float", batches)
        rounded = _tape(_rounded(model, scales, keep, placement), folder / "int8", batches)
        if dense.count != rounded.count:
            raise CalibrationError("the calibration images changed between two passes: pass the same images each time")
        inner = {kernel.node.output[0] for kernel in int8_layers(model, Wiring(model.graph), keep)[0]}
        nodes = [node for node in rounded.nodes if node.output[0] in inner]
        todo = [work for node in nodes if (work := _work(rounded, node)) is not None]
        for done, work in enumerate(todo):
            progress("correcting biases", done, len(todo))
            bias, errors[layer_name(work.node)] = _missing_bias(dense, rounded, work)
            for graph in (rounded.wiring, wiring):
                set_bias(graph, product(graph, graph.producer[work.node.output[0]]), bias)
        progress("correcting biases", len(todo), len(todo))
    return Corrected(corrected, errors)


def _tape(model: ModelProto, folder: Path, batches: Batches) -> Tape:
    copy = ModelProto()
    copy.CopyFrom(model)
    folder.mkdir()
    tape = Tape(copy, folder)
    tape.load(batches)
    return tape


def _rounded(model: ModelProto, scales: Mapping[str, float], keep: Collection[str], placement: Placement) -> ModelProto:
    """`model` with Q/DQ on its activations, and the stored weights of its INT8 layers rounded."""
    rounded, _ = quantize(model, scales, keep=keep, placement=placement)
    wiring = Wiring(rounded.graph)
    for kernel in int8_layers(model, Wiring(model.graph), keep)[0]:
        node = wiring.producer[kernel.node.output[0]]
        weight = weight_of(wiring, node)
        wiring.store(weight.source, weight.values)
        node.input[kernel.at] = weight.source
    return rounded


def _work(tape: Tape, node: NodeProto) -> Product | None:
    """Return the layer as a product; None if its bias cannot be set, or its rows are not those of the float model."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or not tape.behind_selection.keys().isdisjoint(node.input):
        return None
    try:
        work = product(tape.wiring, node)
        return work if has_bias(tape.wiring, work) else None
    except SparsityError:
        return None


def _missing_bias(dense: Tape, rounded: Tape, work: Product) -> tuple[npt.NDArray[np.float64], float]:
    """Return the bias [outputs] that the layer needs, and the loss of its output then, as a share of its variance."""
    out = work.node.output[0]
    rounded.run_to(_index(rounded, out))
    dense.run_to(_index(dense, out) + 1, keep=[out])
    target, missing, random = list[_Moments](), list[_Moments](), np.random.default_rng(0)
    for x, y in zip(rounded.read(work.reads), dense.read(out), strict=True):
        inputs, targets = work.inputs(x), work.outputs(y)
        if len(inputs) > POSITIONS:
            some = random.choice(len(inputs), POSITIONS, replace=False)
            inputs, targets = inputs[some], targets[some]
        target.append(_Moments.of(targets))
        missing.append(_Moments.of(targets - _products(work, inputs)))
    loss, size = (_Moments.mean_of(each, np.ones(len(each))).variance.sum() for each in (missing, target))
    return _Moments.mean_of(missing, _weights(target)).mean, float(loss / max(size, 1e-30))


def _weights(target: Sequence[_Moments]) -> npt.NDArray[np.float64]:
    """How much each batch counts: less, the more its outputs vary beyond what is usual.

    What INT8 clips in a few images with exceptionally large values is missing there alone; added to every image's
    outputs, it makes the others worse.
    """
    sizes = np.array([moments.variance.sum() for moments in target])
    return np.asarray(1 / np.maximum(sizes + np.median(sizes), 1e-30))


def _products(work: Product, inputs: npt.NDArray[np.float32]) -> Array:
    """Return the layer's outputs [positions, outputs], without a bias."""
    weight = (work.matrix * work.scale).astype(np.float32)
    parts = inputs.reshape(len(inputs), work.parts, -1).transpose(1, 2, 0)
    return (weight.reshape(work.parts, -1, weight.shape[1]) @ parts).reshape(len(weight), -1).T


def _index(tape: Tape, out: str) -> int:
    return next(i for i, node in enumerate(tape.nodes) if node.output[0] == out)


@dataclass(frozen=True)
class _Moments:
    """Mean and mean square of each column."""

    mean: npt.NDArray[np.float64]
    square: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Array) -> _Moments:
        return cls(rows.mean(0, dtype=np.float64), np.einsum("pr,pr->r", rows, rows, dtype=np.float64) / len(rows))

    @classmethod
    def mean_of(cls, parts: Sequence[_Moments], weights: npt.NDArray[np.float64]) -> _Moments:
        """Return the moments of the rows of all `parts` together, each with its weight."""
        mean, square = (np.stack(each) for each in zip(*((p.mean, p.square) for p in parts), strict=True))
        shares = weights / weights.sum()
        return cls(shares @ mean, shares @ square)

    @property
    def variance(self) -> npt.NDArray[np.float64]:
        return np.maximum(self.square - self.mean**2, 0)
