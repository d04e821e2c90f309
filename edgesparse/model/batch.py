"""Makes the batch dimension of a model with static shapes dynamic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from edgesparse.errors import ModelError
from edgesparse.model.load import Model, constant_tensors, fix_shapes, info

OPEN = "batch"
"""Name of the dynamic dimension."""


def open_batch(model: Model, least: int, most: int) -> Model:
    """Return a copy of `model` with a dynamic batch in every input whose first dimension is the image's batch.

    The batch is fixed by the constant shapes of Reshape: where it is their first entry, 0 (copy the input's dimension)
    or -1 (whatever remains) takes its place. Inferring all shapes at `least` and at `most` shows whether that is
    enough. Raises ModelError if an operator still fixes the batch.
    """
    described = info(model)
    batch = described.inputs[described.image][0] or 1
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for value in opened.graph.input:
        if described.inputs.get(value.name, ())[:1] == (batch,):
            value.type.tensor_type.shape.dim[0].dim_param = OPEN
    _open_reshapes(opened, batch, _first_dimensions(model))
    for count in (least, most):
        _check(opened, model, batch, count)
    del opened.graph.value_info[:]
    for value in opened.graph.output:
        if described.outputs[value.name][:1] == (batch,):
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
    """Return the nodes whose outputs depend on an input, in order."""
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
    """Check that every output has `count` in place of `batch` and is otherwise unchanged. Raises ModelError."""
    shapes = info(fix_shapes(opened, count, None)).outputs
    for name, shape in info(model).outputs.items():
        needed = (count, *shape[1:]) if shape[:1] == (batch,) else shape
        if shapes[name] != needed:
            raise ModelError(
                f"output {name} of the network is {shapes[name]} at batch {count}, needed {needed}: "
                "an operator fixes the batch; set build.batch to one number"
            )
