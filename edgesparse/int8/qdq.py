"""Writes Q/DQ pairs into a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgesparse.int8.layers import Kernel
from edgesparse.int8.placement import QdqPlan
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import Array, attribute, reads


def channel_axis(kernel: Kernel) -> int | None:
    """The axis of the layer's weights along which each output channel has its own scale; None: one scale for all.

    0 for a convolution, 1 for a transposed one, the output's axis for a matrix. Grouped transposed convolutions have
    one scale: their axis 1 holds the channels of one group, where TensorRT expects all.
    """
    if kernel.node.op_type == "ConvTranspose" and attribute(kernel.node, "group", 1) > 1:
        return None
    return 1 - kernel.weight.axis


def write(model: ModelProto, plan: QdqPlan, scales: Mapping[str, float], weights: Mapping[str, Array]) -> None:
    """Write the pairs of `plan` into `model`: `scales` by tensor, `weights` (one scale per output channel) by layer.

    `model` is the one that was planned, possibly in another opset: its nodes are matched by their first outputs.
    """
    writer = _QdqWriter(model, plan, scales)
    kernels = {kernel.node.output[0]: kernel for kernel in plan.kernels}
    writer.pairs_behind(value.name for value in model.graph.input)
    for node in model.graph.node:
        kernel = kernels.get(node.output[0])
        if kernel is not None:
            name, source = layer_name(kernel.node), writer.weight(kernel)
            node.input[kernel.at] = writer.pair(f"{name}.weight", source, weights[name], channel_axis(kernel))
            _set_kernel_shape(node, kernel.weight.values.shape)
        writer.append(node)
        writer.pairs_behind(node.output)
    writer.finish()


def _set_kernel_shape(node: NodeProto, shape: tuple[int, ...]) -> None:
    """Set a convolution's optional attribute, which TensorRT 8.5 needs if the weights are not an initializer."""
    if node.op_type in ("Conv", "ConvTranspose") and attribute(node, "kernel_shape", None) is None:
        node.attribute.append(helper.make_attribute("kernel_shape", shape[2:]))


class _QdqWriter:
    """Rebuilds a graph's list of nodes with pairs in it."""

    def __init__(self, model: ModelProto, plan: QdqPlan, scales: Mapping[str, float]) -> None:
        self.graph, self.plan, self.scales = model.graph, plan, scales
        self.nodes: list[NodeProto] = []
        self._read_as: dict[tuple[str, int], str] = {}
        """(first output of a node, input) -> the tensor that it reads instead of the model's."""
        self._taken = {name for node in self.graph.node for name in (node.name, *node.input, *node.output)}
        for values in (self.graph.input, self.graph.output, self.graph.initializer):
            self._taken.update(value.name for value in values)

    def pairs_behind(self, names: Iterable[str]) -> None:
        """Add one pair after each of these tensors that the plan quantizes, for all its readers in the plan."""
        for name in names:
            if name in self.plan.readers:
                pair = self.pair(name, name, np.array(self.scales[name], np.float32), None)
                readers = self.plan.readers[name].items()
                self._read_as.update({(reader, place): pair for reader, places in readers for place in places})

    def append(self, node: NodeProto) -> None:
        for i, name in enumerate(node.input):
            node.input[i] = self._read_as.get((node.output[0], i), name)
        self.nodes.append(node)

    def pair(self, name: str, source: str, scale: Array, axis: int | None) -> str:
        """Add Q and DQ after the tensor `source`, named after `name`. Returns the output of DQ."""
        parameters = [
            self.store(f"{name}_scale", np.asarray(scale, np.float32)),
            self.store(f"{name}_zero", np.zeros(np.shape(scale), np.int8)),
        ]
        for operator, end in (("QuantizeLinear", "_q"), ("DequantizeLinear", "_dq")):
            out = self._fresh(name + end)
            node = helper.make_node(operator, [source, *parameters], [out], out)
            if axis is not None:
                node.attribute.append(helper.make_attribute("axis", axis))
            self.nodes.append(node)
            source = out
        return source

    def weight(self, kernel: Kernel) -> str:
        """Return the stored tensor of the layer's float weights, in the layout that the layer reads."""
        if kernel.weight.steps:
            return self.store(f"{layer_name(kernel.node)}.weight", kernel.weight.values)
        return kernel.weight.source

    def store(self, name: str, values: Array) -> str:
        tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), self._fresh(name))
        self.graph.initializer.append(tensor)
        return str(tensor.name)

    def finish(self) -> None:
        """Write the nodes to the graph, without unused constants."""
        read = {out.name for out in self.graph.output}
        nodes = []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                read.update(reads(node))
                nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(reversed(nodes))
        stored, inputs = self.graph.initializer, self.graph.input
        unread = {tensor.name for tensor in stored} - read
        kept = [tensor for tensor in stored if tensor.name not in unread]
        fed = [value for value in inputs if value.name not in unread]
        del stored[:], inputs[:]
        stored.extend(kept)
        inputs.extend(fed)

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
