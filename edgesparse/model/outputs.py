"""Measures how much the outputs of a changed model differ from those of the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgesparse.model.activations import Batches, stream
from edgesparse.model.layers import before_selection
from edgesparse.model.threads import in_threads
from edgesparse.model.wiring import Array, Wiring

Floats = npt.NDArray[np.float32]
PLACES = 512
"""Most places per batch to compare in a tensor before a selection."""
Read = Callable[[Mapping[str, Array]], Floats]
"""Turns a batch's outputs, by name, into [places, fields]: for example boxes, and class confidences from 0 to 1."""


class ReferenceOutputs:
    """A model's outputs for some batches, kept in memory, to compare those of changed models with.

    The results of `read` are compared; without it, each output separately. If a model selects rows (TopK), tensors
    before the selection are compared: a changed model lists different rows, in a different order.
    """

    def __init__(self, model: ModelProto, batches: Batches, read: Read | None = None) -> None:
        self._read = read
        outputs = [output.name for output in model.graph.output]
        before = [] if read is not None else before_selection(Wiring(model.graph))
        self._most = PLACES if before else None
        self.names = before or outputs
        self._batches = list(batches())
        reference = self._joined(stream(model, lambda: self._batches, self.names))
        self._parts = [part for i, output in enumerate(reference) for part in _split(i, output)]

    def change(self, model: ModelProto) -> float:
        """Return the squared change of the outputs with `model`, as a share of their variance, averaged over parts."""
        return self.difference(stream(model, lambda: self._batches, self.names))

    def difference(self, values: Iterable[Mapping[str, Array]]) -> float:
        """Like `change`, for outputs computed elsewhere: the tensors `names` of each batch."""
        outputs = self._joined(values)
        return float(np.mean([part.change(outputs[part.output]) for part in self._parts]))

    def _joined(self, values: Iterable[Mapping[str, Array]]) -> list[Floats]:
        """Return each output, or the result of `read`, over all batches, as [places, fields]."""
        if self._read is not None:
            return [np.concatenate(list(in_threads(self._read, values)))]
        listed = list(values)
        return [np.concatenate([self._thinned(_fields(value[name])) for value in listed]) for name in self.names]

    def _thinned(self, fields: Floats) -> Floats:
        """Return evenly spaced places of a batch: features before a selection have many."""
        step = 1 if self._most is None else max(1, -(-len(fields) // self._most))
        return fields[::step]


@dataclass(frozen=True)
class _OutputPart:
    """Fields of an output that count together, or each relative to its own `spread`; places count by `weight`."""

    output: int
    fields: npt.NDArray[np.intp]
    values: Floats
    weight: Floats
    spread: Floats
    together: bool

    def change(self, output: Floats) -> float:
        moved = self.weight @ (output[:, self.fields] - self.values) ** 2
        if self.together:
            return float(moved.sum() / max(self.spread.sum(), 1e-12))
        return float(np.mean(moved / (self.spread + 1e-12)))


def _split(index: int, output: Floats) -> list[_OutputPart]:
    """Split an output into scores and the rest. Fields with values between 0 and 1 are taken for scores: they count
    together, and the other fields, boxes, are weighted by the highest score of their place.
    """
    scores = (output.min(0) >= 0) & (output.max(0) <= 1)
    every = np.ones(len(output), np.float32)
    place = every if scores.all() or not scores.any() else output[:, scores].max(1)
    return [
        _OutputPart(
            index, np.flatnonzero(kind), output[:, kind], weight, _spread(output[:, kind], weight), kind is scores
        )
        for kind, weight in ((scores, every), (~scores, place))
        if kind.any()
    ]


def _spread(values: Floats, weight: Floats) -> Floats:
    mean = weight @ values / max(float(weight.sum()), 1e-12)  # all weights are 0 for an image without objects
    spread: Floats = weight @ (values - mean) ** 2
    return spread


def _fields(output: Array) -> Floats:
    """Return [places, fields]: the shortest axis after the batch holds the fields, the other axes are places."""
    if output.ndim < 2:
        return output.reshape(-1, 1).astype(np.float32)
    axis = 1 + int(np.argmin(output.shape[1:]))
    return np.moveaxis(output, axis, -1).reshape(-1, output.shape[axis]).astype(np.float32)
