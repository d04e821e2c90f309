"""Finds which channels of a graph must move together, and which may swap places without changing its outputs.

Each output channel of a convolution is followed through activations, pooling, residual additions, concatenations and
splits. Channels that are added to each other are joined; a channel that meets anything else (a reshape, the graph's
output, ...) stays in place. Two channels may swap places if the same convolutions write them and read them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from edgesparse.errors import SparsityError
from edgesparse.model.layers import sharers
from edgesparse.model.weights import Weight, weight_of
from edgesparse.model.wiring import Wiring, attribute, reads

Index = npt.NDArray[np.intp]
PASS = frozenset(
    """Relu LeakyRelu Clip Sigmoid HardSigmoid HardSwish Tanh Elu Selu Softplus Erf Gelu Mish Exp Log Sqrt Abs Neg
    Reciprocal Floor Ceil Round Identity Dropout Cast MaxPool AveragePool GlobalAveragePool GlobalMaxPool Resize
    Upsample QuantizeLinear DequantizeLinear PRelu BatchNormalization""".split()  # noqa: SIM905
)
MIX = frozenset(("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow"))


@dataclass(frozen=True)
class Channels:
    """The channels of one tensor: `ids` identifies them, `versions` the operation that computed their values."""

    ids: Index
    versions: Index

    def __getitem__(self, part: slice) -> Channels:
        return Channels(self.ids[part], self.versions[part])

    def pairs(self, find: Index) -> list[tuple[int, int]]:
        return list(zip(find[self.ids].tolist(), self.versions.tolist(), strict=True))


@dataclass(frozen=True)
class Use:
    """A stored tensor with one entry per channel: input `position` of `node`, along `axis`."""

    node: NodeProto
    position: int
    axis: int
    channels: Channels


@dataclass
class Flow:
    """How channels pass through a graph.

    `weights`: of convolutions, with the channels along their input (axis 1) or output axis (axis 0). `stored`: biases
    and other constants with one value per channel. `find`: the representative of each channel. `at`: the channels of
    each tensor. `stopped`: the nodes at which channels could not be followed.
    """

    wiring: Wiring
    weights: list[tuple[Use, Weight]] = field(default_factory=list)
    stored: list[Use] = field(default_factory=list)
    frozen: set[int] = field(default_factory=set)
    at: dict[str, Channels] = field(default_factory=dict)
    stopped: list[NodeProto] = field(default_factory=list)
    _parent: list[int] = field(default_factory=list)
    _version: int = 0

    def fresh(self, count: int) -> Channels:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return self.changed(np.arange(start, start + count))

    def changed(self, ids: Index) -> Channels:
        """Return the same channels with new values."""
        self._version += 1
        return Channels(ids, np.full(len(ids), self._version))

    def freeze(self, channels: Channels) -> None:
        self.frozen.update(channels.ids.tolist())

    def join(self, first: Channels, second: Channels) -> None:
        for a, b in zip(first.ids.tolist(), second.ids.tolist(), strict=True):
            self._parent[self._root(a)] = self._root(b)

    @property
    def find(self) -> Index:
        return np.array([self._root(i) for i in range(len(self._parent))], np.intp)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def blocks(self) -> list[list[int]]:
        """Return lists of channels that may swap places with each other, in the order in which they are written."""
        find = self.find
        met: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        frozen = {int(find[i]) for i in self.frozen}
        for place, (use, _) in enumerate(self.weights):
            pairs = use.channels.pairs(find)
            if len(set(pairs)) < len(pairs):
                frozen.update(channel for channel, _ in pairs)
            for channel, version in pairs:
                met[channel].append((place, version))
        alike: defaultdict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for channel in sorted(met):
            if channel not in frozen:
                alike[tuple(met[channel])].append(channel)
        return [block for block in alike.values() if len(block) > 1]


def follow(wiring: Wiring) -> Flow:
    """Follow every channel of `wiring`'s graph."""
    flow = Flow(wiring)
    at = flow.at
    for node in wiring.graph.node:
        inputs = [at[name] for name in reads(node) if name in at]
        outputs = _through(flow, node, at)
        if outputs is None:
            for channels in inputs:
                flow.freeze(channels)
            if inputs:
                flow.stopped.append(node)
        at.update(outputs or {})
    for name in wiring.outputs & at.keys():
        flow.freeze(at[name])
    return flow


def _through(flow: Flow, node: NodeProto, at: dict[str, Channels]) -> dict[str, Channels] | None:
    """Return the channels of the outputs of `node`; None if they cannot be followed."""
    if node.op_type == "Conv":
        return _conv(flow, node, at)
    if node.op_type == "Shape":
        return {}
    first = at.get(node.input[0]) if node.input else None
    if node.op_type in MIX:
        return _mix(flow, node, at)
    if node.op_type == "Concat":
        parts = [at.get(name) for name in node.input]
        if attribute(node, "axis") != 1 or any(part is None for part in parts):
            return None
        known = [part for part in parts if part is not None]
        ids, versions = (np.concatenate([getattr(part, name) for part in known]) for name in ("ids", "versions"))
        return {node.output[0]: Channels(ids, versions)}
    if first is None:
        return None
    if node.op_type == "Split":
        return _split(flow, node, first)
    if node.op_type == "Slice":
        return _slice(flow, node, first)
    if node.op_type in PASS and _parameters(flow, node, first):
        return {node.output[0]: flow.changed(first.ids)}
    return None


def _conv(flow: Flow, node: NodeProto, at: dict[str, Channels]) -> dict[str, Channels] | None:
    first, group = at.get(node.input[0]), attribute(node, "group", 1)
    try:
        weight = weight_of(flow.wiring, node)
    except SparsityError:
        return None
    outputs, inputs = weight.outputs_inputs
    movable = not weight.rescaled and not sharers(flow.wiring, node, weight)
    if group == 1:
        written = flow.fresh(outputs)
        if movable and first is not None:
            flow.weights.append((Use(node, 1, 1, first), weight))
        elif first is not None:
            flow.freeze(first)
    elif first is not None and group == outputs == len(first.ids) and inputs == 1:
        written = flow.changed(first.ids)
    else:
        return None
    if movable:
        flow.weights.append((Use(node, 1, 0, written), weight))
    else:
        flow.freeze(written)
    if len(node.input) > 2 and node.input[2] and not _per_channel(flow, node, 2, 0, written):
        flow.freeze(written)
    return {node.output[0]: written}


def _mix(flow: Flow, node: NodeProto, at: dict[str, Channels]) -> dict[str, Channels] | None:
    """Return the channels of an elementwise operation: channels that meet are joined."""
    known = [at[name] for name in node.input if name in at]
    if not known or any(len(channels.ids) != len(known[0].ids) for channels in known):
        return None
    for i, name in enumerate(node.input):
        if name not in at and not _per_channel(flow, node, i, -3, known[0]):
            return None
    for channels in known[1:]:
        flow.join(known[0], channels)
    return {node.output[0]: flow.changed(known[0].ids)}


def _parameters(flow: Flow, node: NodeProto, channels: Channels) -> bool:
    """Record the constants of a PRelu, BatchNormalization or Q/DQ. Returns False if one cannot be reordered."""
    if node.op_type == "BatchNormalization":
        return all(_per_channel(flow, node, i, 0, channels) for i in range(1, 5))
    if node.op_type == "PRelu":
        return _per_channel(flow, node, 1, -3, channels)
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        scale = flow.wiring.constant(node.input[1])
        return scale is not None and scale.size == 1
    return True


def _per_channel(flow: Flow, node: NodeProto, position: int, axis: int, channels: Channels) -> bool:
    """Record a constant with one value per channel along `axis`. Also returns True for one shared by all channels."""
    value = flow.wiring.constant(node.input[position])
    if value is None:
        return False
    if value.ndim < -axis or (value.ndim and value.shape[axis] == 1):
        return True
    if value.shape[axis] != len(channels.ids):
        return value.size == 1
    flow.stored.append(Use(node, position, axis, channels))
    return True


def _split(flow: Flow, node: NodeProto, first: Channels) -> dict[str, Channels] | None:
    sizes = flow.wiring.constant(node.input[1]) if len(node.input) > 1 else attribute(node, "split")
    if attribute(node, "axis", 0) != 1:
        return None
    if sizes is None:
        sizes = [-(-len(first.ids) // len(node.output))] * len(node.output)
    ends = np.cumsum(sizes).tolist()
    return {
        name: first[int(end - size) : int(end)]
        for name, size, end in zip(node.output, sizes, ends, strict=True)
        if name
    }


def _slice(flow: Flow, node: NodeProto, first: Channels) -> dict[str, Channels] | None:
    if len(node.input) < 4:
        return None
    bounds = [flow.wiring.constant(name) if name else None for name in node.input[1:]]
    starts, ends, axes, *rest = bounds
    if starts is None or ends is None or axes is None or 0 in axes or (axes < 0).any():
        return None
    steps = rest[0] if rest and rest[0] is not None else np.ones(len(axes), int)
    part = first
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis == 1:
            part = first[int(start) : int(end) : int(step)]
    return {node.output[0]: part if part is not first else flow.changed(first.ids)}
