"""Where Q/DQ pairs stand in a detector so that TensorRT runs it in INT8: on which tensors, read by which nodes.

TensorRT's developer guide, "Q/DQ Layer-Placement Recommendations": quantise the inputs of weighted operations and leave
their outputs alone, so that what follows fuses with them; of a residual addition quantise only the shortcut. Operations
that merely move values commute with Q/DQ: what they read and write shares one scale, so that TensorRT can cancel the
pairs between them, and a concatenation becomes a copy of bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from onnx import ModelProto, NodeProto, TensorProto

from edgesparse.errors import CalibrationError, ModelError, SparsityError
from edgesparse.graph import mask
from edgesparse.graph.fusion import POINTWISE
from edgesparse.graph.sparsity import RELU, layer_name, layer_nodes, why_not
from edgesparse.graph.weights import LAYERS, Weight, weight_of
from edgesparse.graph.wiring import Wiring, attribute, reads

Placement = Literal["fuse", "sparse"]
COMMUTE = frozenset(
    """MaxPool GlobalMaxPool Resize Upsample Slice Split Reshape Flatten Transpose Squeeze Unsqueeze Identity Dropout
    DepthToSpace SpaceToDepth""".split()  # noqa: SIM905
)
"""What they write lies within the range of what they read, and mostly on the same grid."""
SIZES = ("Shape", "Size", "NonZero")
HEAD = "makes the model's output: a rounded box or score would be final"
DECODES = "decodes boxes (behind a Softmax): too few products to gain, too exact to round"


@dataclass(frozen=True)
class Kernel:
    """A layer that runs in INT8: its weight, which input it multiplies with it, and what it reads."""

    node: NodeProto
    weight: Weight
    at: int
    """Position of the weight among the node's inputs; the activation has the other one of 0 and 1."""

    @property
    def reads(self) -> str:
        return str(self.node.input[1 - self.at])


@dataclass
class Plan:
    """`kernels`: the INT8 layers in the graph's order. `float_because`: why each other layer stays float, by name.

    `readers`: for each quantised tensor the nodes, by their first output, that read it through its Q/DQ pair, and at
    which inputs. `scales_of`: each quantised tensor's representative; those with the same one share a scale.
    """

    kernels: list[Kernel] = field(default_factory=list)
    float_because: dict[str, str] = field(default_factory=dict)
    readers: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    scales_of: dict[str, str] = field(default_factory=dict)


def plan(model: ModelProto, placement: Placement = "fuse", keep: Collection[str] = ()) -> Plan:
    """Decide for every layer and tensor of `model`. Raises ModelError where it has Q/DQ already, is FP16 or has no
    layer that can be INT8, and CalibrationError where a name of `keep` fits no layer."""
    refuse_unfit(model)
    wiring = Wiring(model.graph)
    _check_names(keep, [layer_name(node) for node in layer_nodes(wiring)])
    made = Plan()
    heads = _heads(wiring)
    for node in layer_nodes(wiring):
        found = _kernel(wiring, node, heads, keep)
        if isinstance(found, Kernel):
            made.kernels.append(found)
        else:
            made.float_because[layer_name(node)] = found
    if not made.kernels:
        why = next((f": {name} {why}" for name, why in made.float_because.items()), "")
        raise ModelError(f"none of the model's {len(made.float_because)} layers can be INT8{why}")
    edges = _Edges(wiring, made.kernels)
    edges.place()
    if placement == "sparse":
        for kernel in made.kernels:
            if runs_sparse(wiring, kernel):
                edges.behind(kernel.node)
    made.readers = {name: edges.readers[name] for name in edges.in_order()}
    made.scales_of = {name: edges.find(name) for name in made.readers}
    return made


def refuse_unfit(model: ModelProto) -> None:
    """Raise ModelError, with what to do, where `model` is quantised already or not in FP32."""
    count = sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)
    if count:
        raise ModelError(
            f"the model carries {count} Q/DQ operators already: build it as it is, or quantise the float model it "
            "was made from"
        )
    others = [n.op_type for n in model.graph.node if n.op_type.startswith("QLinear") or n.op_type.endswith("Integer")]
    if others:
        raise ModelError(
            f"the model is quantised in the operator form ({others[0]}), which TensorRT does not read: "
            "quantise the float model it was made from"
        )
    stored = {tensor.name for tensor in model.graph.initializer}
    kinds = {value.type.tensor_type.elem_type for value in model.graph.input if value.name not in stored}
    kinds |= {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    for kind in kinds & {TensorProto.FLOAT16, TensorProto.BFLOAT16}:
        named = TensorProto.DataType.Name(kind)
        raise ModelError(
            f"the model is {named}: quantise its FP32 export, the build makes FP16 of what stays float (Q/DQ with "
            "FP32 scales is what every TensorRT from 8.5 on reads)"
        )


def runs_sparse(wiring: Wiring, kernel: Kernel) -> bool:
    """Whether the layer's weights are 2:4 and TensorRT may run a sparse kernel on them."""
    weight = kernel.weight
    if why_not(wiring, kernel.node, weight) is not None:
        return False
    return mask.violations(weight.values != 0, weight.axis)[0] == 0


def _check_names(names: Collection[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise CalibrationError(
                f"cannot keep {name!r} in float: no such layer" + (f"; did you mean {near[0]!r}?" if near else "")
            )


def _kernel(wiring: Wiring, node: NodeProto, heads: dict[str, str], keep: Collection[str]) -> Kernel | str:
    """The layer as an INT8 one, or in words why it stays float."""
    name = layer_name(node)
    if name in keep:
        return "kept in float, as asked"
    if node.output[0] in heads:
        return heads[node.output[0]]
    at = 1 if node.op_type in ("Conv", "ConvTranspose") or wiring.is_constant(node.input[1]) else 0
    if not wiring.is_constant(node.input[at]):
        return "multiplies two activations"
    try:
        weight = weight_of(wiring, node)
    except SparsityError as error:
        return str(error).replace("2:4 needs", "INT8 needs")
    if not weight.values.size or weight.values.dtype != "float32":
        return f"weights are {weight.values.dtype}"
    return Kernel(node, weight, at)


def _heads(wiring: Wiring) -> dict[str, str]:
    """Why layers near the outputs stay float: no other layer stands between, or they decode."""
    found: dict[str, str] = {}
    todo, seen = list(wiring.outputs), set[str]()
    while todo:
        name = todo.pop()
        node = wiring.producer.get(name)
        if name in seen or node is None or node.op_type in SIZES:
            continue
        seen.add(name)
        if node.op_type in LAYERS:
            decodes = _behind_softmax(wiring, node)
            found[node.output[0]] = DECODES if decodes else HEAD
            if not decodes and any(map(wiring.is_constant, node.input[:2])):
                continue
        todo.extend(reads(node))
    return found


def _behind_softmax(wiring: Wiring, node: NodeProto) -> bool:
    """Whether `node` reads a Softmax, through nothing but moves: Distribution Focal Loss's expected value."""
    at = wiring.producer.get(node.input[0])
    while at is not None and at.op_type in COMMUTE:
        at = wiring.producer.get(at.input[0])
    return at is not None and at.op_type == "Softmax"


class _Edges:
    """Which nodes read which tensors through Q/DQ, and which tensors share a scale."""

    def __init__(self, wiring: Wiring, kernels: list[Kernel]) -> None:
        self.wiring = wiring
        self.kernels = {kernel.node.output[0]: kernel for kernel in kernels}
        self.readers: defaultdict[str, dict[str, set[int]]] = defaultdict(dict)
        self.order = {name: i for i, node in enumerate(wiring.graph.node) for name in node.output}
        self.origin = _origins(wiring)
        self._parent: dict[str, str] = {}

    def place(self) -> None:
        for kernel in self.kernels.values():
            self._read(kernel.reads, kernel.node, {1 - kernel.at})
        for node in self.wiring.graph.node:
            if node.op_type == "Add":
                self._shortcut(node)
        for node in reversed(list(self.wiring.graph.node)):
            self._pass_back(node)
        self._drop_single_moves()

    def behind(self, node: NodeProto) -> None:
        """Q/DQ right behind a layer and its ReLU, for all that reads it: the layer itself writes INT8."""
        out = self._after_relu(node.output[0])
        if out in self.wiring.outputs:
            return
        for reader in self.wiring.consumers[out]:
            self._read(out, reader, {i for i, name in enumerate(reader.input) if name == out})

    def find(self, name: str) -> str:
        """The representative of all tensors that share a scale with `name`."""
        while self._parent.get(name, name) != name:
            name = self._parent[name]
        return name

    def in_order(self) -> Iterator[str]:
        """The quantised tensors: the model's inputs first, then as they are made."""
        made = [name for node in self.wiring.graph.node for name in node.output]
        known = set(made)
        yield from (name for name in self.readers if name not in known)
        yield from (name for name in made if name in self.readers)

    def _read(self, name: str, reader: NodeProto, places: set[int]) -> None:
        if places:
            self.readers[name].setdefault(reader.output[0], set()).update(places)

    def _join(self, one: str, other: str) -> None:
        self._parent[self.find(one)] = self.find(other)

    def _after_relu(self, name: str) -> str:
        after = self.wiring.consumers[name]
        while len(after) == 1 and after[0].op_type in RELU and name not in self.wiring.outputs:
            name = after[0].output[0]
            after = self.wiring.consumers[name]
        return name

    def _pass_back(self, node: NodeProto) -> None:
        """Have a node that moves values towards INT8 readers read INT8 itself, at the same scale."""
        outs = [name for name in node.output if name in self.readers]
        if node.op_type == "Concat" and outs and not any(map(self.wiring.is_constant, node.input)):
            for i, name in enumerate(node.input):
                self._read(name, node, {i})
                self._join(name, outs[0])
        elif outs and _commutes(self.wiring, node):
            self._read(node.input[0], node, {0})
            for name in outs:
                self._join(name, node.input[0])

    def _drop_single_moves(self) -> None:
        """No pair in front of a node that moves one tensor to one place: the pair behind it is enough."""
        wanted = set(self.readers)
        for name, by in list(self.readers.items()):
            nodes = [node for node in self.wiring.consumers[name] if node.output[0] in by]
            if len(nodes) == 1 and nodes[0].op_type in COMMUTE and len(wanted.intersection(nodes[0].output)) == 1:
                del self.readers[name]

    def _shortcut(self, node: NodeProto) -> None:
        """Of a residual addition, what does not come straight from an INT8 layer: the other input fuses with the Add.

        Where both come from layers, the later one fuses, and rather one that nothing else reads.
        """
        if len(set(node.input)) < 2 or any(map(self.wiring.is_constant, node.input)) or not self._leads_on(node):
            return
        own = [i for i, name in enumerate(node.input) if self.origin.get(name) in self.kernels]
        if own:
            alone = {i: len(self.wiring.consumers[node.input[i]]) == 1 for i in own}
            main = max(own, key=lambda i: (alone[i], self.order[node.input[i]]))
            self._read(node.input[1 - main], node, {1 - main})

    def _leads_on(self, node: NodeProto) -> bool:
        """Whether an INT8 layer follows somewhere behind `node`."""
        todo, seen = list(node.output), set[str]()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for reader in self.wiring.consumers[name]:
                if reader.output[0] in self.kernels:
                    return True
                todo.extend(reader.output)
        return False


def _commutes(wiring: Wiring, node: NodeProto) -> bool:
    if node.op_type == "Resize" and attribute(node, "mode", b"nearest") not in (b"nearest", b"linear"):
        return False
    return node.op_type in COMMUTE and not wiring.is_constant(node.input[0])


def _origins(wiring: Wiring) -> dict[str, str]:
    """Tensors that a layer makes with nothing but pointwise operations behind it, and that layer's first output."""
    found: dict[str, str] = {}
    for node in wiring.graph.node:
        if node.op_type in LAYERS:
            found[node.output[0]] = node.output[0]
        elif node.op_type in POINTWISE:
            origins = {found.get(name) for name in node.input if name and not wiring.is_constant(name)}
            first = origins.pop() if len(origins) == 1 else None
            if first is not None:
                found[node.output[0]] = first
    return found
