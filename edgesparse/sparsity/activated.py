"""Fits a layer to what passes its activation: what ReLU cuts off needs no match, and would cost accuracy elsewhere.

`fitting` matches a layer's outputs before the activation. From there, each round fits what is still missing behind it:
GLMtron (Kakade et al., 2011, arXiv:1104.2018), with steps scaled by the second moments of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from edgesparse.model.threads import in_threads
from edgesparse.model.unfold import Product
from edgesparse.model.wiring import Array, Wiring, attribute
from edgesparse.sparsity.fitting import Fit, Moments, ridge_of
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.solving import Kept, Mask, Matrix, Single

Activation = Callable[[Single], Single]
Pairs = Callable[[int], Iterable[tuple[Array, Array]]]
"""Starts a pass, from a batch on, over a layer's inputs in the pruned model and its outputs in the dense model."""
ROUNDS = 5
"""Each passes over the layer's inputs once."""
HELD = 1 << 27
"""Most bytes of inputs and targets held between passes; other batches are read and prepared again."""


def activation_of(wiring: Wiring, name: str) -> Activation | None:
    """Return the activation that alone reads the tensor `name`: ReLU, LeakyReLU or SiLU; None for anything else."""
    readers = [] if name in wiring.outputs else sorted(wiring.consumers[name], key=lambda node: node.op_type)
    kinds = [node.op_type for node in readers]
    if kinds == ["Relu"]:
        return lambda x: np.maximum(x, 0)
    if kinds == ["LeakyRelu"]:
        slope = np.float32(attribute(readers[0], "alpha", 0.01))
        return lambda x: np.where(x > 0, x, slope * x)
    if kinds == ["Mul", "Sigmoid"] and set(readers[0].input) == {name, readers[1].output[0]}:
        return _silu
    return None


def _silu(x: Single) -> Single:
    # in place: fresh memory for each intermediate result takes longer than the arithmetic
    result = np.maximum(x, -80)
    np.negative(result, out=result)
    np.exp(result, out=result)
    result += 1
    return np.divide(x, result, out=result)


class _Missing(NamedTuple):
    """What is missing behind the activation: times the inputs [parts, r, d], its sum and sum of squares [parts, r]."""

    products: Array
    total: Array
    squares: Array


def activated(
    work: Product,
    moments: Moments,
    fits: Sequence[Fit],
    pairs: Pairs,
    weights: PositionWeights | None,
    activation: Activation,
) -> list[Fit]:
    """Return `fits`, one per part of the layer, with the same masks and no worse outputs behind `activation`.

    `moments` and `weights`: those that `fits` come from. A round that makes an output worse is undone, and its next
    step is shorter; after one that makes it better, longer: the less passes the activation, the longer steps must be.
    """
    best, pace = list(fits), np.ones((work.parts, len(fits[0].weight)))
    steps, data = _Steps(moments, fits), _Data(work, pairs, weights, activation)
    missing = _missing(data, best)
    for _ in range(ROUNDS):
        trial = steps.beyond(best, missing, pace)
        left = _missing(data, trial)
        better = left.squares < missing.squares
        best = [_rows(rows, new, old) for rows, new, old in zip(better, trial, best, strict=True)]
        missing = _Missing(
            np.where(better[..., None], left.products, missing.products),
            np.where(better, left.total, missing.total),
            np.where(better, left.squares, missing.squares),
        )
        pace *= np.where(better, 2, 0.5)
    return best


def _rows(rows: Mask, new: Fit, old: Fit) -> Fit:
    """`new` in the outputs `rows`, else `old`."""
    weight = np.where(rows[:, None], new.weight, old.weight)
    return replace(old, weight=weight, bias=np.where(rows, new.bias, old.bias))


class _Steps:
    """The steps from fits with the masks of `fits` towards what is missing."""

    def __init__(self, moments: Moments, fits: Sequence[Fit]) -> None:
        normals = [moments.normal(i, True) for i in range(len(fits))]
        self._count, self._x = moments.count, np.stack([normal.x for normal in normals])
        h = np.stack([normal.xx for normal in normals])
        for part in h:
            part[np.diag_indices_from(part)] += ridge_of(part)
        self._kept = Kept(h, np.stack([fit.mask for fit in fits]))

    def beyond(self, fits: Sequence[Fit], missing: _Missing, pace: Matrix) -> list[Fit]:
        """Return `fits` one step, times `pace` [parts, r], further."""
        mean = pace * missing.total / self._count
        products = pace[..., None] * missing.products / self._count
        step = self._kept.solve(products - mean[..., None] * self._x[:, None])
        bias = mean - (step @ self._x[..., None])[..., 0]
        return [
            replace(fit, weight=fit.weight + more, bias=fit.bias + shift)
            for fit, more, shift in zip(fits, step, bias, strict=True)
        ]


class _Batch(NamedTuple):
    """One batch by part: inputs [parts, d, positions], targets [parts, r, positions] behind the activation, and how
    much each position counts.
    """

    inputs: Single
    target: Single
    weight: Single | None


class _Data:
    """The batches that a layer is fitted on. The first ones, up to HELD bytes, are prepared once for all passes."""

    def __init__(self, work: Product, pairs: Pairs, weights: PositionWeights | None, activation: Activation) -> None:
        self.work, self.activation = work, activation
        self._pairs, self._weights = pairs, weights
        self._held: list[_Batch] = []
        self._room = HELD

    def each(self, function: Callable[[_Batch], _Missing]) -> Iterator[_Missing]:
        """Yield `function`, called in threads, of each batch."""

        def of(item: tuple[int, _Batch | tuple[Array, Array]]) -> tuple[_Batch, _Missing]:
            number, source = item
            batch = source if isinstance(source, _Batch) else self._prepared(number, *source)
            return batch, function(batch)

        sources: Iterator[_Batch | tuple[Array, Array]] = chain(tuple(self._held), self._pairs(len(self._held)))
        for number, (batch, result) in enumerate(in_threads(of, enumerate(sources))):
            if number == len(self._held):
                self._room -= batch.inputs.nbytes + batch.target.nbytes
                self._held += [batch] if self._room >= 0 else []
            yield result

    def _prepared(self, number: int, x: Array, y: Array) -> _Batch:
        weight = None if self._weights is None or y.ndim != 4 else self._weights.weights(number, *y.shape[2:])
        target = self.activation(self._by_part(self.work.outputs(y)))
        return _Batch(self._by_part(self.work.inputs(x)), target, weight)

    def _by_part(self, values: Single) -> Single:
        """[positions, channels] as [parts, channels, positions], the order in memory behind a convolution."""
        return values.T.reshape(self.work.parts, -1, len(values))


def _missing(data: _Data, fits: Sequence[Fit]) -> _Missing:
    matrix = np.stack([part.weight for part in fits]).astype(np.float32)
    bias = np.stack([part.bias for part in fits]).astype(np.float32)[..., None]

    def sums(batch: _Batch) -> _Missing:
        own = matrix @ batch.inputs
        own += bias
        left = batch.target - data.activation(own)
        counted = left if batch.weight is None else left * batch.weight
        squares = np.einsum("prn,prn->pr", counted, left)
        return _Missing(counted @ batch.inputs.transpose(0, 2, 1), counted.sum(2), squares)

    result = _Missing(np.zeros(matrix.shape), np.zeros(matrix.shape[:2]), np.zeros(matrix.shape[:2]))
    for added in data.each(sums):
        for total, part in zip(result, added, strict=True):
            total += part
    return result
