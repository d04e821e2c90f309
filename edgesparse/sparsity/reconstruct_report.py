"""The effect of pruning without training on each layer, and the scores before and after. `page` renders it as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgesparse.refinement import Refinement
from edgesparse.sparsity.inspect import InspectedLayer
from edgesparse.sparsity.ranking import Choice
from edgesparse.sparsity.rebuild import LayerFit


@dataclass(frozen=True)
class ReconstructedLayer:
    """One layer of the model. `state`: sparse (now 2:4), dense (eligible) or ineligible; `why`: the reason. `error`:
    the loss of its output from pruning, its own and earlier layers', as a share of its variance; None if the layer was
    not refitted. `change`: how pruning only this layer changes the model's outputs, as a share of their variance; None:
    not measured.
    """

    name: str
    state: str
    why: str
    macs: int
    error: float | None
    change: float | None

    @property
    def pruned(self) -> bool:
        return self.state == "sparse" and self.error is not None


@dataclass(frozen=True)
class ReconstructReport:
    """The result of `reconstruct`: every layer of the model in order, and the scores; None: not scored. `training`:
    None if the weights were only refitted.
    """

    layers: tuple[ReconstructedLayer, ...]
    dense_score: float | None
    score: float | None
    training: Refinement | None = None

    @property
    def share(self) -> float:
        """Share of the eligible multiply-accumulates that are now 2:4, 0 to 1."""
        macs = {
            state: sum(layer.macs for layer in self.layers if layer.state == state) for state in ("sparse", "dense")
        }
        return macs["sparse"] / max(1, sum(macs.values()))

    @property
    def drop(self) -> float | None:
        """Points lost; None: not scored."""
        return None if self.score is None or self.dense_score is None else self.dense_score - self.score

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return {
            "share_of_eligible_macs": round(self.share, 4),
            "dense_score": self.dense_score,
            "score": self.score,
            "drop": self.drop,
            "training": None if self.training is None else asdict(self.training),
            "layers": [asdict(layer) for layer in self.layers],
        }


def describe(
    layers: Sequence[InspectedLayer],
    fits: Sequence[LayerFit],
    choices: Sequence[Choice] | None,
    skipped: Mapping[str, str],
) -> tuple[ReconstructedLayer, ...]:
    """Return a report on each of `layers`. `choices`: the candidates with their sensitivity; None: named by the caller.

    `skipped`: why eligible layers could not be refitted, by name.
    """
    fitted = {fit.name: fit for fit in fits}
    changes = None if choices is None else {choice.name: choice.change for choice in choices}
    described = (_describe(layer, fitted.get(layer.name), changes) for layer in layers)
    return tuple(replace(row, why=skipped[row.name]) if row.name in skipped else row for row in described)


def _describe(layer: InspectedLayer, fit: LayerFit | None, changes: Mapping[str, float] | None) -> ReconstructedLayer:
    pruned = fit is not None and fit.mask is not None
    change = None if changes is None else changes.get(layer.name)
    if layer.reason or (layer.sparse and not pruned):
        why = layer.reason or "2:4 before"
    elif changes is None:
        why = "requested" if pruned else "not requested"
    elif change is None:
        why = "2:4 gains nothing here"
    else:
        why = f"changes the outputs {'little' if pruned else 'too much'} for what it saves"
    state = "sparse" if pruned else layer.state
    error = None if fit is None else fit.error
    return ReconstructedLayer(layer.name, state, why, layer.macs or 0, error, change)
