"""Which channels of a block matter: how well the convolutions that read it do without them, on images.

Channels are removed one at a time, always the one whose loss the readers compensate best: the rise of their squared
output errors, as a share of the outputs' variance, with all remaining weights refitted. That rise is read from the
inverse of the inputs' second moments (Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain
Surgeon", NeurIPS 1993; here for all weights of a channel at once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from edgesparse.compress.coupled import Block
from edgesparse.model.activations import stream
from edgesparse.model.bias import set_bias
from edgesparse.model.layers import layer_name
from edgesparse.model.outputs import ReferenceOutputs
from edgesparse.model.unfold import Product, product
from edgesparse.model.wiring import Wiring
from edgesparse.sparsity.channels import Index
from edgesparse.sparsity.fitting import RIDGE, Normal
from edgesparse.sparsity.rebuild import FitData, moments_of
from edgesparse.sparsity.solving import Matrix


@dataclass(frozen=True)
class Fewer:
    """A block with only some channels left: `dropped` are the numbers of the removed ones.

    `readers`: weights and bias of each reader, refitted to the channels that are left, by name.
    """

    dropped: tuple[int, ...]
    readers: Mapping[str, tuple[Matrix, Matrix]]


def fewer(model: ModelProto, block: Block, counts: Sequence[int], data: FitData) -> dict[int, Fewer]:
    """Return `block` reduced to each of `counts` channels, of which the best ones are left."""
    wiring = Wiring(model.graph)
    nodes = {layer_name(node): node for node in model.graph.node}
    works = [product(wiring, nodes[reader.name]) for reader in block.readers]
    ends = [(work.reads, work.node.output[0]) for work in works]
    tensors = stream(model, data.batches, list(dict.fromkeys(name for pair in ends for name in pair)))
    moments = moments_of(works, ([(values[x], values[y]) for x, y in ends] for values in tensors), data.weights)
    solving = [
        _Solving(work, reader.places, sums.normal(0, True))
        for work, reader, sums in zip(works, block.readers, moments, strict=True)
    ]
    left, results = list(range(len(block.ids))), dict[int, Fewer]()
    for count in range(len(left), min(counts) - 1, -1):
        if count < len(left):
            rises = np.sum([reader.rises(left) for reader in solving], 0)
            worst = left.pop(int(np.argmin(rises)))
            for reader in solving:
                reader.drop(worst)
        if count in counts:
            dropped = tuple(number for i, number in enumerate(block.ids) if i not in left)
            results[count] = Fewer(dropped, {layer_name(r.work.node): (r.weight.copy(), r.bias()) for r in solving})
    return results


def change(model: ModelProto, reduced: Fewer, outputs: ReferenceOutputs) -> float:
    """Return how the model's outputs change with only this block reduced, as a share of their variance."""
    copy = ModelProto()
    copy.CopyFrom(model)
    wiring = Wiring(copy.graph)
    nodes = {layer_name(node): node for node in copy.graph.node}
    for name, (weight, added) in reduced.readers.items():
        work = product(wiring, nodes[name])
        bias = wiring.constant(work.node.input[2]) if len(work.node.input) > 2 and work.node.input[2] else None
        wiring.store(work.weight.source, work.stored(weight))
        set_bias(wiring, work, added if bias is None else added + bias)
    return outputs.change(copy)


class _Solving:
    """The weights of one reader while channels are removed."""

    def __init__(self, work: Product, places: Index, normal: Normal) -> None:
        self.work, self.weight = work, work.matrix
        kernel = self.weight.shape[1] // work.weight.outputs_inputs[1]
        self.columns = (places[:, :, None] * kernel + np.arange(kernel)).reshape(len(places), -1)
        self._normal = normal
        h = self._normal.xx.copy()
        h[np.diag_indices_from(h)] += RIDGE * max(float(np.trace(h)) / len(h), 1e-12)
        self._inverse = np.linalg.inv(h)
        self._dense = self.weight.copy()
        self._variance = max(float(self._normal.yy.sum()), 1e-30)

    def rises(self, left: Sequence[int]) -> Matrix:
        """How much the error rises, as a share of the output's variance, if one of the channels `left` is removed."""
        columns = self.columns[left]
        weight = self.weight[:, columns].transpose(1, 2, 0)
        inner = self._inverse[columns[:, :, None], columns[:, None, :]]
        rises: Matrix = (weight * np.linalg.solve(inner, weight)).sum((1, 2)) / self._variance
        return rises

    def drop(self, channel: int) -> None:
        """Remove a channel: the other weights take over what they can."""
        columns = self.columns[channel]
        share = np.linalg.solve(self._inverse[np.ix_(columns, columns)], self._inverse[columns])
        self.weight -= self.weight[:, columns] @ share
        self._inverse -= self._inverse[:, columns] @ share
        self.weight[:, columns] = 0

    def bias(self) -> Matrix:
        """What must be added to the bias, so that the mean of the output stays the same."""
        added: Matrix = (self._dense - self.weight) @ self._normal.x
        return added
