"""What removing channels did to each layer, and the scores before and after. `page` renders it as HTML."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgesparse.compress.coupled import Coupled
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import attribute


@dataclass(frozen=True)
class NarrowedLayer:
    """One convolution: its input and output channels before and after; 0: it was removed.

    `saved_ms`: predicted. `error`: the loss of its output, its own and earlier layers', as a share of its variance;
    None if it was not refitted. `change`: how removing only these output channels changes the model's outputs, as a
    share of their variance; None if none were removed here.
    """

    name: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    saved_ms: float
    error: float | None
    change: float | None

    @property
    def narrowed(self) -> bool:
        return self.inputs[0] != self.inputs[1] or self.outputs[0] != self.outputs[1]


@dataclass(frozen=True)
class NarrowReport:
    """The result of removing channels. `before_ms`, `after_ms`: predicted in INT8 on `device`. `layers`: every
    convolution of the model, in order. The scores are None if there was nothing to score on.
    """

    device: str
    before_ms: float
    after_ms: float
    layers: tuple[NarrowedLayer, ...]
    dense_score: float | None
    score: float | None

    @property
    def narrowed(self) -> tuple[NarrowedLayer, ...]:
        return tuple(layer for layer in self.layers if layer.narrowed)

    @property
    def drop(self) -> float | None:
        """Points lost; None: not scored."""
        return None if self.score is None or self.dense_score is None else self.dense_score - self.score

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return asdict(self) | {"speedup": round(self.before_ms / self.after_ms, 4), "drop": self.drop}


def describe(
    coupled: Coupled,
    dropped: Collection[int],
    ms: tuple[Mapping[str, float], Mapping[str, float]],
    errors: Mapping[str, float],
    changes: Mapping[str, float],
) -> tuple[NarrowedLayer, ...]:
    """Describe every convolution whose channels are followed. `ms`: predicted per layer, before and after; `changes`:
    per block, by its first convolution.
    """
    kept = ~np.isin(coupled.find, list(dropped))
    counts: dict[str, dict[int, tuple[int, int]]] = {}
    for use, weight in coupled.flow.weights:
        keeps, name = kept[use.channels.ids], layer_name(use.node)
        counts.setdefault(name, {})[use.axis] = (len(keeps), int(keeps.sum()))
        if use.axis == 0 and 1 not in counts[name]:
            depthwise = attribute(use.node, "group", 1) > 1
            counts[name][1] = counts[name][0] if depthwise else (weight.values.shape[1],) * 2
    return tuple(
        NarrowedLayer(
            name,
            *((sides[1], sides[0]) if sides[0][1] and sides[1][1] else ((sides[1][0], 0), (sides[0][0], 0))),
            ms[0].get(name, 0.0) - ms[1].get(name, 0.0),
            errors.get(name) if sides[0][1] and sides[1][1] else None,
            changes.get(name),
        )
        for name, sides in counts.items()
    )
