"""Converts an ONNX model to FP16, for engines that take types from the model alone (TensorRT 11, TensorRT-RTX).

Inputs and outputs of the model stay FP32. So do nodes that lose too much in FP16: sums and powers, sorting, constants
that FP16 cannot represent, and everything after the last large products, where boxes are decoded: from 1024 on, FP16
resolves coordinates only to whole pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgesparse.errors import ModelError
from edgesparse.model.opset import opset_of, upgraded
from edgesparse.model.wiring import Array, Wiring, attribute, reads

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PAIRS = ("QuantizeLinear", "DequantizeLinear")
PAIRS_OPSET = 19
"""The first opset in which Q/DQ take FP16."""
LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
LEAST_SCALE = 1e-5
"""Smallest scale of activations: in FP16, a smaller one would be wrong by more than 0.3 %."""
SMALL_WEIGHT = 64
"""A product with no more weights than this only decodes: YOLOv8 sums its distances with 16."""
_SUMS = (
    "CumSum",
    "Exp",
    "Log",
    "Pow",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
_NORMS = ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "MeanVarianceNormalization")
_OTHERS = (
    "EyeLike",
    "GridSample",
    "If",
    "Loop",
    "NonMaxSuppression",
    "RandomNormal",
    "RandomUniform",
    "Range",
    "RoiAlign",
    "Scan",
    "TopK",
)
NEVER = frozenset((*_SUMS, *_NORMS, *_OTHERS))
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def to_half(model: ModelProto, keep: Collection[str] = ()) -> ModelProto:
    """Return a copy of `model` that computes in FP16, with Casts where FP32 begins and ends. Node names are unchanged.

    `keep`: names of other nodes that stay FP32. A model with Q/DQ nodes is returned in opset 19 or later. Raises
    ModelError if types cannot be inferred.
    """
    quantized = any(node.op_type in PAIRS for node in model.graph.node)
    copy = upgraded(model, PAIRS_OPSET if quantized else opset_of(model))
    _constants_to_initializers(copy)
    kinds = _kinds(copy)
    wiring = Wiring(copy.graph)
    stay = {id(node) for node in copy.graph.node if node.name in keep} | _stay(copy, wiring, kinds)
    _Converter(copy, wiring, kinds, stay).convert()
    try:
        onnx.checker.check_model(copy)
        return onnx.shape_inference.infer_shapes(copy, strict_mode=True)
    except Exception as error:
        raise ModelError(f"the model cannot be converted to FP16: {' '.join(str(error).split())[:200]}") from None


class _Converter:
    """Rewrites the nodes: each reads its float tensors in its own type, through one Cast per tensor and type."""

    def __init__(self, model: ModelProto, wiring: Wiring, kinds: dict[str, int], stay: set[int]) -> None:
        self.graph, self.wiring, self.kinds, self.stay = model.graph, wiring, kinds, stay
        self.opset = opset_of(model)
        self.current = dict(kinds)
        """The type of each tensor in the new graph."""
        self.casts: dict[tuple[str, int], str] = {}
        """(tensor, type) -> the tensor cast to that type."""
        self.nodes: list[NodeProto] = []
        self.names = set(kinds) | {value.name for value in self.graph.initializer}

    def convert(self) -> None:
        outputs = {value.name for value in self.graph.output}
        ends: dict[str, str] = {}
        for node in list(self.graph.node):
            half = id(node) not in self.stay
            places = _half_inputs(node, self.opset) if half else set()
            for i, name in enumerate(node.input):
                if self.kinds.get(name) == FLOAT:
                    node.input[i] = self._as(ends.get(name, name), HALF if i in places else FLOAT)
            if half:
                self._halve(node, outputs, ends)
            self.nodes.append(node)
        for name, inner in ends.items():
            self.nodes.append(helper.make_node("Cast", [inner], [name], f"{inner}_out", to=FLOAT))
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self._drop_unread()

    def _halve(self, node: NodeProto, outputs: set[str], ends: dict[str, str]) -> None:
        for part in node.attribute:
            if node.op_type == "Cast" and part.name == "to" and part.i == FLOAT:
                part.i = HALF
            elif part.type == onnx.AttributeProto.TENSOR and part.t.data_type == FLOAT:
                part.t.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(part.t)), part.t.name))
        for i, name in enumerate(node.output):
            if self.kinds.get(name) == FLOAT:
                if name in outputs:
                    ends[name] = node.output[i] = self._fresh(f"{name}_half")
                self.current[node.output[i]] = HALF

    def _as(self, name: str, kind: int) -> str:
        """Return the name of the tensor in this type; adds a Cast or a converted constant if it does not exist yet."""
        if self.current[name] == kind:
            return name
        if (name, kind) not in self.casts:
            cast = self.casts[name, kind] = self._fresh(f"{name}_{'half' if kind == HALF else 'float'}")
            self.current[cast] = kind
            if name in self.wiring.stored:
                values = numpy_helper.to_array(self.wiring.stored[name])
                self.graph.initializer.append(numpy_helper.from_array(_half(values, self._is_scale(name)), cast))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [cast], cast, to=kind))
        return self.casts[name, kind]

    def _is_scale(self, name: str) -> bool:
        return any(node.op_type in PAIRS and node.input[1] == name for node in self.wiring.consumers[name])

    def _fresh(self, name: str) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def _drop_unread(self) -> None:
        read = {name for node in self.graph.node for name in reads(node)} | {value.name for value in self.graph.output}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def _half(values: Array, scale: bool = False) -> Array:
    """Convert to FP16. The scale of an almost dead channel does not become zero, which engines refuse."""
    return (np.maximum(values, SMALLEST) if scale else values).astype(np.float16)


def _stay(model: ModelProto, wiring: Wiring, kinds: dict[str, int]) -> set[int]:
    """Return the ids of the nodes that stay FP32."""
    inside = {name for node in model.graph.node if node.op_type in ("If", "Loop", "Scan") for name in reads(node)}
    stay = _tail(model, wiring)
    for node in model.graph.node:
        if (
            node.op_type in NEVER
            or node.domain not in ("", "ai.onnx")
            or not _output_may_be_half(node, opset_of(model))
            or any(name and name not in kinds for name in (*node.input, *node.output))
            or inside.intersection(node.output)
            or any(not _holds(node, i, wiring) for i in range(len(node.input)))
        ):
            stay.add(id(node))
    return stay


def _tail(model: ModelProto, wiring: Wiring) -> set[int]:
    """Return the nodes between the last products with more than a few weights and the model's outputs."""
    todo, tail = [value.name for value in model.graph.output], set[int]()
    while todo:
        node = wiring.producer.get(todo.pop())
        if node is None or id(node) in tail or node.op_type in PAIRS or _is_large_product(node, wiring):
            continue
        tail.add(id(node))
        todo.extend(node.input)
    return tail


def _is_large_product(node: NodeProto, wiring: Wiring) -> bool:
    if node.op_type not in PRODUCTS:
        return False
    stored = wiring.stored.get(node.input[1])
    return stored is None or int(np.prod(stored.dims)) > SMALL_WEIGHT


def _holds(node: NodeProto, place: int, wiring: Wiring) -> bool:
    """Whether FP16 can represent the constant that the node reads at input `place`; True if it reads none."""
    stored = wiring.stored.get(node.input[place])
    if stored is None or stored.data_type != FLOAT:
        return True
    size = np.abs(numpy_helper.to_array(stored))
    if not size.size:
        return True
    if node.op_type in PAIRS and place == 1:
        return bool(size.max() <= LARGEST and (size.size > 1 or size.min() >= LEAST_SCALE))
    flushed = size.size <= SMALL_WEIGHT and bool(((size > 0) & (size < SMALLEST)).any())
    return bool(np.nan_to_num(size, posinf=np.inf).max() <= LARGEST) and not flushed


def _schema(node: NodeProto, opset: int) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(node.op_type, opset, "")


def _allows_half(schema: onnx.defs.OpSchema, kind: str) -> bool:
    allowed = next((rule.allowed_type_strs for rule in schema.type_constraints if rule.type_param_str == kind), [kind])
    return "tensor(float16)" in allowed


def _half_inputs(node: NodeProto, opset: int) -> set[int]:
    """Return the positions of the inputs that the operator takes in FP16."""
    schema = _schema(node, opset)
    parameters = [schema.inputs[min(i, len(schema.inputs) - 1)] for i in range(len(node.input))]
    return {i for i, parameter in enumerate(parameters) if _allows_half(schema, parameter.type_str)}


def _output_may_be_half(node: NodeProto, opset: int) -> bool:
    """Whether the node's first input and output may be FP16; those of Q/DQ in an old opset may not."""
    try:
        schema = _schema(node, opset)
    except onnx.defs.SchemaError:
        return False
    ends = (*schema.outputs[:1], *schema.inputs[:1])
    return all(_allows_half(schema, parameter.type_str) for parameter in ends) or (
        node.op_type in ("Cast", *PAIRS) and opset >= PAIRS_OPSET
    )


def _kinds(model: ModelProto) -> dict[str, int]:
    """Return the element type of every tensor. Raises ModelError if ONNX cannot infer the types."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except Exception as error:
        raise ModelError(f"types cannot be inferred: {' '.join(str(error).split())[:200]}") from None
    values: Iterable[onnx.ValueInfoProto] = (*inferred.value_info, *inferred.input, *inferred.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values if value.type.HasField("tensor_type")}
    return kinds | {tensor.name: tensor.data_type for tensor in model.graph.initializer} | {"": 0}


def _constants_to_initializers(model: ModelProto) -> None:
    """Turn Constant nodes into initializers, so that each reader can have the tensor in its own type."""
    kept = []
    for node in model.graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
