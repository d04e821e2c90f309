"""How far the outputs of a changed model are from those of the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgesparse.model.activations import Batches, stream
from edgesparse.model.threads import in_threads
from edgesparse.model.wiring import Array

Floats = npt.NDArray[np.float32]
Read = Callable[[Mapping[str, Array]], Floats]
"""What makes of a batch's outputs, by name, [places, fields]: boxes, say, and the confidence in each class, 0 to 1."""


class Outputs:
    """What the network puts out for some batches, which stay in memory, and how far another one is from that.

    Compared is what `read` makes of the outputs; without, each output for itself.
    """

    def __init__(self, model: ModelProto, batches: Batches, read: Read | None = None) -> None:
        self._read = read
        self.names = [output.name for output in model.graph.output]
        self._seen = list(batches())
        made = self._joined(stream(model, lambda: self._seen, self.names))
        self._parts = [part for i, output in enumerate(made) for part in _parts(i, output)]

    def change(self, model: ModelProto) -> float:
        """Squared change of the outputs over their variance, the mean of all parts, where `model` runs instead."""
        return self.apart(stream(model, lambda: self._seen, self.names))

    def apart(self, values: Iterable[Mapping[str, Array]]) -> float:
        """The same for `values`, the tensors `names` of each batch."""
        outputs = self._joined(values)
        return float(np.mean([part.change(outputs[part.output]) for part in self._parts]))

    def _joined(self, values: Iterable[Mapping[str, Array]]) -> list[Floats]:
        """Each output, or what is made of all, as [places, fields]."""
        if self._read is not None:
            return [np.concatenate(list(in_threads(self._read, values)))]
        seen = list(values)
        return [np.concatenate([_fields(value[name]) for value in seen]) for name in self.names]


@dataclass(frozen=True)
class _Part:
    """Fields of an output that count together, or each by its own `spread`; places count by `weight`."""

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


def _parts(index: int, output: Floats) -> list[_Part]:
    """The scores and the rest of an output.

    Where some fields of an output lie between 0 and 1 they are taken for scores: they count together, and what else
    is there, boxes, counts as much as the highest score of its place.
    """
    scores = (output.min(0) >= 0) & (output.max(0) <= 1)
    every = np.ones(len(output), np.float32)
    place = every if scores.all() or not scores.any() else output[:, scores].max(1)
    return [
        _Part(index, np.flatnonzero(kind), output[:, kind], weight, _spread(output[:, kind], weight), kind is scores)
        for kind, weight in ((scores, every), (~scores, place))
        if kind.any()
    ]


def _spread(values: Floats, weight: Floats) -> Floats:
    mean = weight @ values / max(float(weight.sum()), 1e-12)  # no place may count: an image with nothing on it
    spread: Floats = weight @ (values - mean) ** 2
    return spread


def _fields(output: Array) -> Floats:
    """[places, fields]: the shortest of the axes behind the batch's holds the fields, the others are places."""
    if output.ndim < 2:
        return output.reshape(-1, 1).astype(np.float32)
    axis = 1 + int(np.argmin(output.shape[1:]))
    return np.moveaxis(output, axis, -1).reshape(-1, output.shape[axis]).astype(np.float32)
