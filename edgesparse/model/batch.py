"""A model whose batch is open, made from one whose shapes are static."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from edgesparse.errors import ModelError
from edgesparse.model.load import Model, constant_tensors, fix_shapes, info

OPEN = "batch"
"""Name of the open dimension."""


def open_batch(model: Model, least: int, most: int) -> Model:
    """The same model with an open batch in front of every input that has the image's.

    What keeps a batch in a graph are the constant shapes of Reshape: where they hold it in front, the input's own
    dimension (0) or whatever is left (-1) takes its place. Whether that is enough is found by inferring all shapes at
    `least` and at `most`. Raises ModelError where something keeps the batch all the same.
    """
    said = info(model)
    batch = said.inputs[said.image][0] or 1
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for value in opened.graph.input:
        if said.inputs.get(value.name, ())[:1] == (batch,):
            value.type.tensor_type.shape.dim[0].dim_param = OPEN
    _open_reshapes(opened, batch, _first_dimensions(model))
    for count in (least, most):
        _check(opened, model, batch, count)
    del opened.graph.value_info[:]
    for value in opened.graph.output:
        if info(model).outputs[value.name][:1] == (batch,):
            value.type.tensor_type.shape.dim[0].dim_param = OPEN
    return opened


def _open_reshapes(model: Model, batch: int, first: dict[str, int]) -> None:
    constants = dict(constant_tensors(model))
    for number, node in enumerate(_computed(model)):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).astype(np.int64).reshape(-1)
        keeps_zero = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
        if shape[:1] == [batch] and first.get(node.input[0]) == batch and not keeps_zero:
            shape[0] = 0
        elif shape.size and shape[0] > 0 and shape[0] % batch == 0 and -1 not in shape:
            shape[0] = -1
        else:
            continue
        name = f"{node.output[0]}_open_shape_{number}"  # another Reshape may read the same constant
        model.graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name


def _computed(model: Model) -> Iterator[onnx.NodeProto]:
    """Nodes whose results depend on an input, in order."""
    known = {*info(model).inputs}
    for node in model.graph.node:
        if known.intersection(node.input):
            known.update(node.output)
            yield node


def _first_dimensions(model: Model) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [value for value in (*inferred.input, *inferred.value_info) if value.type.tensor_type.shape.dim]
    return {value.name: value.type.tensor_type.shape.dim[0].dim_value for value in values}


def _check(opened: Model, model: Model, batch: int, count: int) -> None:
    """Every output has `count` where it had `batch`, and is as it was otherwise."""
    found = info(fix_shapes(opened, count, None)).outputs
    for name, shape in info(model).outputs.items():
        needed = (count, *shape[1:]) if shape[:1] == (batch,) else shape
        if found[name] != needed:
            raise ModelError(
                f"output {name} of the network is {found[name]} at batch {count}, needed {needed}: "
                "an operator keeps the batch; give build.batch one number"
            )
