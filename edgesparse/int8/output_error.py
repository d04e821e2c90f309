"""The cost of a threshold: the error that rounding and clipping one tensor causes in the outputs of its readers.

The model runs in ONNX Runtime with additional nodes: for each tensor and candidate threshold, the tensor rounded to its
INT8 grid, copies of the layers that read it, and the difference from their outputs. Everything else stays float, so
each error is due to one tensor's range alone, weighted by the layer's own weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgesparse.int8.observe import element_types
from edgesparse.model.activations import Batches, stream
from edgesparse.model.weights import LAYERS
from edgesparse.model.wiring import Wiring
from edgesparse.progress import Progress

IMAGES = 16
"""Number of batches, spread over all, to run again for the measurement."""


def best(
    model: ModelProto,
    batches: Batches,
    count: int,
    thresholds: Mapping[str, Mapping[str, float]],
    progress: Progress,
) -> dict[str, tuple[str, float]]:
    """Return for each tensor the method in `thresholds` (tensor -> method -> amax) with the smallest error, and that
    error.

    Measured on up to IMAGES of the `count` batches. The error is the squared difference in the outputs of the layers
    that read the tensor, as a share of their squares, summed over these layers; of the tensor itself if no layer reads
    it. The first of methods with equal errors is used.
    """
    probe = _probe(model, thresholds)
    step = max(1, -(-count // IMAGES))
    sums: defaultdict[str, float] = defaultdict(float)

    def some() -> Iterator[npt.NDArray[np.float32]]:
        return islice(iter(batches()), 0, None, step)

    for done, values in enumerate(stream(probe.model, some, probe.outputs), 1):
        for name, value in values.items():
            sums[name] += float(value)
        progress("measuring thresholds", done, -(-count // step))
    return {name: probe.least(name, list(methods), sums) for name, methods in thresholds.items()}


@dataclass
class _Probe:
    """`errors`: (tensor, threshold) -> pairs of outputs: the squared error, and the squares that it is a share of."""

    model: ModelProto
    errors: dict[tuple[str, float], list[tuple[str, str]]] = field(default_factory=dict)
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def outputs(self) -> list[str]:
        return list({name: None for pairs in self.errors.values() for pair in pairs for name in pair})

    def least(self, name: str, methods: list[str], sums: Mapping[str, float]) -> tuple[str, float]:
        def error(method: str) -> float:
            pairs = self.errors[name, self.thresholds[name][method]]
            return sum(sums[difference] / sums[exact] for difference, exact in pairs if sums[exact] > 0)

        method = min(methods, key=error)
        return method, error(method)


def _probe(model: ModelProto, thresholds: Mapping[str, Mapping[str, float]]) -> _Probe:
    copy = ModelProto()
    copy.CopyFrom(model)
    probe = _Probe(copy, thresholds=thresholds)
    wiring, types = Wiring(model.graph), element_types(model)
    for name, methods in thresholds.items():
        writer = _ProbeWriter(copy, types.get(name, TensorProto.FLOAT))
        layers = [node for node in wiring.consumers[name] if node.op_type in LAYERS]
        for threshold in dict.fromkeys(methods.values()):
            rounded = writer.rounded(name, threshold)
            outputs = [(writer.copy(node, name, rounded), node.output[0]) for node in layers] or [(rounded, name)]
            pairs = [
                (writer.squares(writer.add("Sub", wrong, exact)), writer.squares(exact)) for wrong, exact in outputs
            ]
            probe.errors[name, threshold] = pairs
    return probe


class _ProbeWriter:
    """Adds nodes with unique names to a model, for a tensor of the element type `kind`."""

    def __init__(self, model: ModelProto, kind: int) -> None:
        self._graph, self._kind = model.graph, kind

    def rounded(self, name: str, threshold: float) -> str:
        """Add `name` rounded and clipped to INT8 with this range."""
        # plain operators: ONNX Runtime would fuse Q/DQ pairs into the layers around them
        scale = self._constant(threshold / 127)
        steps = self.add("Div", self.add("Cast", name, to=TensorProto.FLOAT), scale)
        nearest = self.add("Floor", self.add("Add", steps, self._constant(0.5)))
        clipped = self.add("Max", self.add("Min", nearest, self._constant(127)), self._constant(-128))
        return self.add("Cast", self.add("Mul", clipped, scale), to=self._kind)

    def copy(self, layer: NodeProto, name: str, instead: str) -> str:
        """Add a copy of `layer` that reads `instead` in place of `name`; return its output."""
        name_of_copy = self._name()
        node = self._graph.node.add()
        node.CopyFrom(layer)
        node.name = node.output[0] = name_of_copy
        node.input[:] = [instead if read == name else read for read in layer.input]
        return node.output[0]

    def squares(self, name: str) -> str:
        """Add the sum of squares of `name`, a float32 scalar."""
        return self.add("ReduceSumSquare", self.add("Cast", name, to=TensorProto.FLOAT), keepdims=0)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = self._name()
        self._graph.node.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def _constant(self, value: float) -> str:
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def _name(self) -> str:
        return f"edgesparse/probe/{len(self._graph.node)}/{len(self._graph.initializer)}"
