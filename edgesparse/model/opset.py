"""Raises a model's opset, so that newer operators can be written into it."""

from __future__ import annotations

from onnx import ModelProto, checker, version_converter

from edgesparse.errors import ModelError

LEAST = 13
"""The first opset in which QuantizeLinear has an axis, and so scales per channel. TensorRT 8.5 parses 13 to 17."""


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators in `model`."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def upgraded(model: ModelProto, least: int = LEAST) -> ModelProto:
    """Return a copy of `model` in opset `least`, or in its own if that is higher. Names are unchanged. Uses ONNX's
    version converter. Raises ModelError if that cannot convert the model.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    opset = opset_of(model)
    if opset >= least:
        return copy
    hint = f"export it in opset {least} to 17"
    try:
        raised = version_converter.convert_version(copy, least)
        checker.check_model(raised)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot raise the model from opset {opset} to {least} ({reason}): {hint}") from None
    present = {name for node in raised.graph.node for name in node.output}
    named = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]
    lost = [name for name in named if name not in present]
    if lost:
        raise ModelError(f"raising the model from opset {opset} to {least} lost the tensor {lost[0]}: {hint}")
    raised.ir_version = max(raised.ir_version, 7)
    return raised
