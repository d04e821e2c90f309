"""Normalizes what ONNX lets exporters write in several forms. Applied to every loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from edgesparse.errors import ModelError
from edgesparse.model.wiring import reads

NUMBERS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
"""Attributes in which a Constant may hold numbers without a tensor, and their type."""


def normalize(model: ModelProto) -> None:
    """Rewrite `model` in place, without changing its results. Raises ModelError if functions cannot be expanded."""
    _expand_functions(model)
    _fold_domain(model)
    _drop_stored_inputs(model)
    _open_empty_dimensions(model.graph)
    _make_names_unique(model.graph)
    _sort(model.graph)


def numbers_to_tensors(graph: GraphProto) -> None:
    """Turn the numbers in Constants into tensors, in subgraphs too, so that every reader finds them in one place.

    TensorRT 8.5's parser looks for `value_int` and `value_ints` among the floats, where they are not.
    """
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                numbers_to_tensors(inner)
            if node.op_type == "Constant" and attribute.name in NUMBERS:
                values = np.array(onnx.helper.get_attribute_value(attribute), NUMBERS[attribute.name])
                attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(values)))


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node of the graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def _expand_functions(model: ModelProto) -> None:
    """Replace calls of functions defined in the model, as written by PyTorch's exporter, by their nodes."""
    if not model.functions:
        return
    try:
        from onnx.inliner import inline_local_functions
    except ImportError:
        raise ModelError("the model defines functions of its own: install onnx 1.15 or later to read it") from None
    try:
        model.CopyFrom(inline_local_functions(model))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the model's own functions cannot be expanded ({reason}): export it without them") from None


def _open_empty_dimensions(graph: GraphProto) -> None:
    """Make input dimensions that are 0 or negative dynamic: ONNX's shape inference aborts the process on them."""
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")


def _make_names_unique(graph: GraphProto) -> None:
    """Rename nodes with duplicate names: layers are looked up by name."""
    taken = {node.output[0] for node in graph.node if node.output and not node.name}
    for node in graph.node:
        name, count = node.name, 1
        while node.name and node.name in taken:
            node.name = f"{name}_{count}"
            count += 1
        taken.add(node.name)


def _fold_domain(model: ModelProto) -> None:
    """Use the empty domain for ONNX's own operators: `ai.onnx` is another spelling of it."""
    for node in nodes_of(model.graph):
        if node.domain == "ai.onnx":
            node.domain = ""
    if all(entry.domain != "ai.onnx" for entry in model.opset_import):
        return
    version = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    others = [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend([onnx.helper.make_opsetid("", version), *others])


def _drop_stored_inputs(model: ModelProto) -> None:
    """Remove initializers from the inputs, where they were listed before IR version 4: they are constants."""
    stored = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in stored]
    if len(fed) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(fed)
        model.ir_version = max(model.ir_version, 4)


def _sort(graph: GraphProto) -> None:
    """Sort nodes after those that they read: ONNX Runtime's FP16 converter puts Casts of inputs last."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = {i: {producer[name] for name in reads(node) if name in producer} for i, node in enumerate(graph.node)}
    if all(before < i for i, sources in needs.items() for before in sources):
        return
    nodes = list(graph.node)
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError:
        return  # the checker reports it
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)
