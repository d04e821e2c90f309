"""Blocks of channels that can be removed together, found on the graph.

Removing a channel removes it from every convolution that writes or reads it, and from all that is added to it or joined
with it in between (the dependency graph of Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023,
arXiv:2301.12900). `sparsity.channels` follows them; here they are grouped by who writes and reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.errors import SparsityError
from edgesparse.model.layers import behind_selection, layer_name
from edgesparse.model.wiring import Wiring
from edgesparse.sparsity.channels import Flow, Index, Use, follow
from edgesparse.sparsity.rebuild import refit_obstacle


@dataclass(frozen=True)
class Reader:
    """A convolution that reads a block. `places` [channels of the block, n]: where each is among its inputs; a channel
    that is read through several paths has several.
    """

    name: str
    places: Index


@dataclass(frozen=True)
class Block:
    """Channels that the same convolutions write and read. `ids`: their numbers in `Coupled.flow`.

    `writers`: the names of the convolutions that compute them, depthwise ones included.
    """

    ids: tuple[int, ...]
    writers: tuple[str, ...]
    readers: tuple[Reader, ...]

    @property
    def name(self) -> str:
        """The first convolution that computes the block."""
        return self.writers[0]


class Coupled:
    """The blocks of `model`, whose shapes are static and whose constants are folded.

    Raises SparsityError, naming the node, if no channel can be followed from where it is written to where it is read.
    """

    def __init__(self, model: ModelProto) -> None:
        if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
            raise SparsityError("the model carries Q/DQ: remove channels from the float model, then quantize it")
        self.flow = follow(Wiring(model.graph))
        _freeze_counted(self.flow)
        self.find = self.flow.find
        self._behind = behind_selection(self.flow.wiring)
        blocks = (self._block(ids) for ids in self.flow.blocks())
        self.blocks = tuple(block for block in blocks if block is not None)
        if not self.blocks:
            raise SparsityError(f"no channels can be removed: {self._obstacle(model)}")

    def _block(self, ids: Sequence[int]) -> Block | None:
        """A block; None if nothing reads it, or a reader cannot be refitted."""
        writers, readers = [], []
        for use in self._by_channel.get(ids[0], []):
            if use.axis == 0:
                writers.append(layer_name(use.node))
            elif refit_obstacle(self.flow.wiring, use.node, self._behind) is not None:
                return None
            else:
                read = self.find[use.channels.ids]
                readers.append(Reader(layer_name(use.node), np.array([np.flatnonzero(read == i) for i in ids])))
        return Block(tuple(ids), tuple(writers), tuple(readers)) if writers and readers else None

    @cached_property
    def _by_channel(self) -> dict[int, list[Use]]:
        uses: dict[int, list[Use]] = {}
        for use, _ in self.flow.weights:
            for channel in set(self.find[use.channels.ids].tolist()):
                uses.setdefault(channel, []).append(use)
        return uses

    def _obstacle(self, model: ModelProto) -> str:
        if not self.flow.stopped:
            node = model.graph.node[-1]
            return f"all of them reach the output through {node.op_type} {layer_name(node)}"
        node = self.flow.stopped[0]
        return f"they reach {node.op_type} {layer_name(node)}, past which channels cannot be followed"


def _freeze_counted(flow: Flow) -> None:
    """Freeze channels whose number is read by a Shape, that a Slice takes in steps, or whose weights are computed."""
    for node in flow.wiring.graph.node:
        channels = flow.at.get(node.input[0]) if node.input else None
        if channels is not None and (node.op_type == "Shape" or _has_steps(flow.wiring, node)):
            flow.freeze(channels)
            flow.stopped.append(node)
    for use, weight in flow.weights:
        if weight.steps:
            flow.freeze(use.channels)


def _has_steps(wiring: Wiring, node: NodeProto) -> bool:
    """Whether a Slice takes some channels of a range, or takes them backwards."""
    if node.op_type != "Slice" or len(node.input) < 5:
        return False
    axes, steps = wiring.constant(node.input[3]), wiring.constant(node.input[4])
    return axes is None or steps is None or any(steps[axes == 1] != 1)
