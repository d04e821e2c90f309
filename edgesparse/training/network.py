"""A detector's ONNX graph as a PyTorch module whose weights are trained and written back.

The graph remains that of the ONNX file: names, outputs and metadata are kept, and nothing is exported. Only the nodes
between the image and chosen tensors run, so boxes are not decoded. Needs only PyTorch, NumPy and onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from edgesparse.errors import ModelError
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import Wiring
from edgesparse.training.operators import OPERATORS, ConvGeometry

Readers = Mapping[str, Mapping[str, set[int]]]
"""For each quantized tensor, the nodes that read it quantized (by their first output), and at which inputs."""

See = Callable[[NodeProto, list[Tensor | None]], None]


class Network(nn.Module):
    """Runs the nodes that compute `outputs`; `forward` returns these tensors by name.

    `masks`: for each 2:4 weight, by its key in `weights`, which of its values count; those of others are ignored. With
    `straight`, gradients reach the others too, as if they counted (a straight-through estimator). `rounding`: see
    `quantize`.
    Raises ModelError, naming the node, for one that has no PyTorch counterpart.
    """

    def __init__(self, model: ModelProto, outputs: Sequence[str]) -> None:
        super().__init__()
        self.outputs, self.straight, self.rounding = tuple(outputs), False, True
        self.quantizers = nn.ModuleDict()
        self.readers: Readers = {}
        self._group: dict[str, str] = {}
        self._wiring = Wiring(model.graph)
        self._image = next(v.name for v in model.graph.input if v.name not in self._wiring.stored)
        self._nodes = _needed(self._wiring, outputs)
        self._keys: dict[str, str] = {}
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterDict()
        self._steps = [(node, self._step(node)) for node in self._nodes]
        self._spent = _spent(self._nodes, outputs)
        self._quantized_weights: frozenset[str] = frozenset()
        self._add_masks()

    def forward(self, image: Tensor, see: See | None = None) -> dict[str, Tensor]:
        """`see` is called with each node and its inputs."""
        values, rounded = {self._image: image}, dict[str, Tensor]()
        for (node, step), spent in zip(self._steps, self._spent, strict=True):
            inputs = [self._read(values, rounded, node, i) for i in range(len(node.input))]
            if see is not None:
                see(node, inputs)
            results = step(self, *inputs)
            values.update(zip(node.output, results if isinstance(results, tuple) else (results,), strict=False))
            for name in spent:
                values.pop(name, None)
                rounded.pop(name, None)
        return {name: values[name] for name in self.outputs}

    def quantize(
        self,
        readers: Readers,
        scales_of: Mapping[str, str],
        layers: Sequence[str],
        scales: Mapping[str, float],
    ) -> None:
        """Round activations and weights as the INT8 engine will, while `rounding`; see `Quantizer` and int8.placement.

        `scales`: of each quantized tensor, where the training of scales starts.
        """
        from edgesparse.training.quantizer import Quantizer

        self.readers, self._quantized_weights = readers, frozenset(layers)
        self._group = {name: key_of(group) for name, group in scales_of.items()}
        starts = {key: scales[name] for name, key in sorted(self._group.items())}
        self.quantizers = nn.ModuleDict({key: Quantizer(start) for key, start in starts.items()})

    def scales(self) -> dict[str, float]:
        """The scale of each quantized tensor."""
        values = {group: torch.as_tensor(quantizer.scale).item() for group, quantizer in self.quantizers.items()}
        return {name: float(values[group]) for name, group in self._group.items()}

    def write_to(self, model: ModelProto) -> None:
        """Store the weights in `model`, which must have the graph that this module was created from."""
        wiring = Wiring(model.graph)
        for name, key in self._keys.items():
            place = self.weights if key in self.weights else self.biases
            value = place[key].detach().float()
            if (mask := self._mask(key)) is not None:
                value = value * mask
            kind = wiring.stored[name].data_type
            array = value.cpu().numpy()
            wiring.store(name, array.astype("float16") if kind == 10 else array)

    @torch.no_grad()
    def follow(self, other: Network, share: float | Tensor) -> None:
        """Move these weights, an average, by `share` of the difference towards another's."""
        for mean, own in zip(self.parameters(), other.parameters(), strict=True):
            mean.lerp_(own, share)

    @torch.no_grad()
    def input_squares(self, image: Tensor) -> dict[str, Tensor]:
        """Return, by a weight's key, the mean square of each input channel [I] of its convolution, unless grouped.

        `image` [B, 3, H, W] is the network's input. A weight that several nodes read has the mean of theirs.
        """
        squares: dict[str, list[Tensor]] = {}

        def see(node: NodeProto, inputs: list[Tensor | None]) -> None:
            if node.op_type == "Conv" and (x := inputs[0]) is not None:
                key = self._keys[node.input[1]]
                if x.shape[1] == self.weights[key].shape[1]:
                    squares.setdefault(key, []).append(x.square().mean((0, 2, 3)))

        self.forward(image, see)
        return {key: torch.stack(values).mean(0) for key, values in squares.items()}

    @property
    def masks(self) -> dict[str, Tensor]:
        masks = {key: self._mask(key) for key in self.weights}
        return {key: mask for key, mask in masks.items() if mask is not None}

    def magnitudes(self) -> dict[nn.Parameter, Tensor]:
        """Return how large each parameter's values are: of weights, the root mean square of an output channel's nonzero
        ones; of a bias, the norm of its channel's weights.
        """
        sizes: dict[nn.Parameter, Tensor] = {}
        for node in self._nodes:
            if node.op_type != "Conv":
                continue
            weight = self.weights[self._keys[node.input[1]]]
            values = weight.detach().flatten(1)
            norm = values.norm(dim=1)
            mean = norm / (values != 0).sum(1).clamp_min(1).sqrt()
            sizes[weight] = mean.reshape(-1, *[1] * (weight.ndim - 1))
            if len(node.input) > 2 and node.input[2]:
                sizes[self.biases[self._keys[node.input[2]]]] = norm
        return sizes

    def layers(self) -> list[str]:
        """The names of the convolutions, in order."""
        return [layer_name(node) for node in self._nodes if node.op_type == "Conv"]

    def _read(
        self, values: Mapping[str, Tensor], rounded: dict[str, Tensor], node: NodeProto, place: int
    ) -> Tensor | None:
        """Return the node's input at `place`: from `values` or, once for all its readers in INT8, `rounded`."""
        name = node.input[place]
        value = values.get(name)
        read = self.readers.get(name, {}).get(node.output[0], ())
        if value is None or not self.rounding or place not in read:
            return value
        if name not in rounded:
            rounded[name] = self.quantizers[self._group[name]](value)
        return rounded[name]

    def _step(self, node: NodeProto) -> Callable[..., Any]:
        """Return what computes the node, from a network and its inputs: a copy of this one has weights of its own."""
        if node.op_type == "Conv":
            return self._conv(node)
        make = OPERATORS.get(node.op_type)
        if make is None or node.domain:
            raise ModelError(f"{node.op_type} {layer_name(node)} has no counterpart in PyTorch: it cannot be trained")
        constants = [self._wiring.constant(name) if name else None for name in node.input]
        for name, constant in zip(node.input, constants, strict=True):
            if constant is None and name and self._wiring.is_constant(name):
                raise ModelError(
                    f"{node.op_type} {layer_name(node)} reads {name}, which is computed: fold constants first"
                )
        step = make(node, constants)
        return lambda network, *inputs: step(*inputs)

    def _conv(self, node: NodeProto) -> Callable[..., Tensor]:
        geometry = ConvGeometry.of(node)
        weight = self._parameter(node, node.input[1], self.weights)
        bias = self._parameter(node, node.input[2], self.biases) if len(node.input) > 2 and node.input[2] else None
        name = layer_name(node)

        def run(network: Network, x: Tensor, *_: Tensor | None) -> Tensor:
            values = network._masked(weight)
            if network.rounding and name in network._quantized_weights:
                values = rounded_weights(values)
            return geometry.run(x, values, network.biases[bias] if bias is not None else None)

        return run

    def _parameter(self, node: NodeProto, name: str, place: nn.ParameterDict) -> str:
        if name not in self._wiring.stored:
            raise ModelError(f"Conv {layer_name(node)} reads {name}, which is computed: fold constants first")
        key = self._keys.setdefault(name, key_of(name))
        if key not in place:
            array = self._wiring.constant(name)
            assert array is not None
            place[key] = nn.Parameter(torch.from_numpy(array.astype("float32")))
        return key

    def _masked(self, key: str) -> Tensor:
        weight: Tensor = self.weights[key]
        mask = self._mask(key)
        if mask is None:
            return weight
        return weight - (weight * ~mask).detach() if self.straight else weight * mask

    def _add_masks(self) -> None:
        for key, weight in self.weights.items():
            mask = weight.detach() != 0
            if is_2to4(mask):
                self.register_buffer(f"mask_{key}", mask)

    def _mask(self, key: str) -> Tensor | None:
        mask: Tensor | None = getattr(self, f"mask_{key}", None)
        return mask


def key_of(name: str) -> str:
    """A tensor's name in a form that PyTorch allows in a module."""
    return "t_" + "".join(c if c.isalnum() else f"_{ord(c):x}_" for c in name)


def is_2to4(mask: Tensor) -> bool:
    """Whether at most two weights in every four input channels are nonzero."""
    if mask.ndim < 2 or mask.shape[1] % 4:
        return False
    groups = mask.reshape(mask.shape[0], mask.shape[1] // 4, 4, -1)
    return bool((groups.sum(2) <= 2).all())


def rounded_weights(weight: Tensor) -> Tensor:
    """Weights rounded to INT8 with one scale per output channel; gradients pass straight through."""
    scale = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / 127
    return weight + (torch.round(weight / scale) * scale - weight).detach()


def _needed(wiring: Wiring, outputs: Sequence[str]) -> list[NodeProto]:
    """The nodes that compute `outputs` from the image, in order."""
    needed, nodes = set(outputs), []
    for node in reversed(wiring.graph.node):
        if needed.intersection(node.output) and not all(wiring.is_constant(name) for name in node.output if name):
            needed.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def _spent(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[list[str]]:
    """For each node, the tensors that no later node reads: kept, they would fill the memory."""
    last = {name: i for i, node in enumerate(nodes) for name in (*node.input, *node.output)}
    spent: list[list[str]] = [[] for _ in nodes]
    for name, i in last.items():
        if name not in outputs:
            spent[i].append(name)
    return spent
