"""Prunes a model to 2:4 by magnitude: of every four consecutive input channels, the two largest weights are kept.

Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, arXiv:2104.08378. One-shot magnitude pruning needs
training afterwards; `reconstruct` does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.errors import SparsityError
from edgesparse.model.check import require_finite
from edgesparse.model.layers import NOT_FINITE, layer_name, layer_nodes, require_layers, sharers
from edgesparse.model.weights import Weight, weight_of
from edgesparse.model.wiring import Array, Wiring
from edgesparse.progress import Progress, quiet
from edgesparse.sparsity.inspect import why_not
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.permute import Permutation
from edgesparse.sparsity.permute import permute as reorder

WARNING = (
    "one-shot magnitude pruning usually destroys a trained detector (YOLOX-nano falls from 29.5 to 0 mAP): "
    "score it before deploying it; prune with --method reconstruct or train with 2:4 masks instead"
)


@dataclass(frozen=True)
class PrunedLayer:
    """One layer that is now 2:4. `zeroed`: weights set to zero; `kept`: remaining share of magnitude, 0 to 1."""

    name: str
    zeroed: int
    kept: float


@dataclass(frozen=True)
class PruneReport:
    """The result of `prune`; `permutation` if channels were reordered first. `warning`: what a user must know before
    deploying the result.
    """

    layers: tuple[PrunedLayer, ...]
    permutation: Permutation | None = None

    @property
    def changed(self) -> tuple[PrunedLayer, ...]:
        """The layers that were not 2:4 before."""
        return tuple(layer for layer in self.layers if layer.zeroed)

    @property
    def warning(self) -> str | None:
        return WARNING if self.changed else None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        layers = [{"name": p.name, "zeroed": p.zeroed, "kept": round(p.kept, 6)} for p in self.layers]
        permutation = asdict(self.permutation) if self.permutation else None
        return {"changed": len(self.changed), "warning": self.warning, "permutation": permutation, "layers": layers}


def prune(
    model: ModelProto, layers: Collection[str] | None = None, permute: bool = False, progress: Progress = quiet
) -> PruneReport:
    """Make `layers` of `model` 2:4, in place: by default all that `inspect` calls eligible.

    With `permute`, channels are reordered first, so that more magnitude is kept; `progress` reports that search.
    Layers that share weights are pruned once, all of them or none. A layer that is already 2:4 is not changed.
    Raises, with the model unchanged, ModelError where a name matches no layer, and SparsityError where a named layer
    cannot be 2:4, weights are not finite, or no layer is eligible.
    """
    require_finite(model)
    wiring = Wiring(model.graph)
    permutation = None
    if permute:
        permutation = reorder(model, [layer_name(node) for node, _ in chosen(wiring, layers)], progress)
        wiring = Wiring(model.graph)
    masked: dict[str, Array] = {}
    pruned: list[PrunedLayer] = []
    for node, weight in chosen(wiring, layers):
        keep = mask_2to4(weight.values, weight.axis)
        if weight.source not in masked:
            masked[weight.source] = np.where(weight.in_storage(keep), weight.stored, weight.zero)
        pruned.append(_pruned_layer(layer_name(node), weight, keep))
    for source, values in masked.items():
        wiring.store(source, values)
    return PruneReport(tuple(pruned), permutation)


def chosen(wiring: Wiring, names: Collection[str] | None = None) -> Iterator[tuple[NodeProto, Weight]]:
    """Return the layers to prune with their weights: those in `names`, or all eligible ones. Raises what `prune`
    raises.
    """
    nodes = list(layer_nodes(wiring))
    require_layers(names or (), wiring)
    count = 0
    for node in nodes:
        if names is not None and layer_name(node) not in names:
            continue
        reason, weight = _weight(wiring, node)
        if reason and (names is not None or reason == NOT_FINITE):
            raise SparsityError(f"{layer_name(node)}: {reason}")
        if weight is not None and reason is None:
            _check_sharers(wiring, node, weight, names)
            count += 1
            yield node, weight
    if not count:
        raise SparsityError(
            f"none of this model's {len(nodes)} layers can be 2:4: edgesparse inspect lists each layer's reason"
        )


def _weight(wiring: Wiring, node: NodeProto) -> tuple[str | None, Weight | None]:
    """Return why the layer cannot be 2:4 (None: it can), and its weight (None: it has none)."""
    try:
        weight = weight_of(wiring, node)
    except SparsityError as error:
        return str(error), None
    return why_not(wiring, node, weight), weight


def _check_sharers(wiring: Wiring, node: NodeProto, weight: Weight, names: Collection[str] | None) -> None:
    """Raise SparsityError if a layer that is not to be pruned shares the weights of `node`."""
    others = [layer_name(other) for other in sharers(wiring, node, weight)]
    left_out = [other for other in others if names is not None and other not in names]
    if left_out:
        raise SparsityError(f"{layer_name(node)} shares its weights with {left_out[0]}: name both, or neither")


def _pruned_layer(name: str, weight: Weight, keep: Array) -> PrunedLayer:
    magnitude = np.abs(weight.values, dtype=np.float32)
    total, kept = float(magnitude.sum()), float((magnitude * keep).sum())
    zeroed = int(np.count_nonzero((weight.values != 0) & ~keep))
    return PrunedLayer(name, zeroed, kept / total if total else 1.0)
