"""The result of `recover`, by step and by layer. `page` renders it as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgesparse.int8.calibration import Range
from edgesparse.int8.equalize import EqualizedTensor
from edgesparse.int8.placement import Placement
from edgesparse.refinement import Refinement


@dataclass(frozen=True)
class RecoveryStep:
    """The INT8 model after one step. `change`: of its outputs on a few images, as a share of their variance.
    `score`: on labeled data; None: not scored."""

    what: str
    change: float
    score: float | None


@dataclass(frozen=True)
class RecoveredLayer:
    """One layer. `why`: why it is INT8 or float. `macs`: None if shapes are unknown. `error`: the loss of its output,
    by its own and earlier rounding, as a share of its variance. `alone`: how this layer alone in INT8 changes the
    model's outputs; None: not measured.
    """

    name: str
    int8: bool
    why: str
    macs: int | None
    error: float | None = None
    alone: float | None = None


@dataclass(frozen=True)
class RecoverReport:
    """The result of `recover`. `share`: of the convolutions' multiply-accumulates that is INT8. `steps`: the float
    model first. `ranges`: of the quantized tensors.
    """

    placement: Placement
    share: float
    steps: tuple[RecoveryStep, ...]
    layers: tuple[RecoveredLayer, ...]
    equalized: tuple[EqualizedTensor, ...]
    ranges: Mapping[str, Range]
    images: int
    warnings: tuple[str, ...]
    training: Refinement | None = None
    """None: weights and ranges were not trained."""

    @property
    def drop(self) -> float | None:
        """Points lost from the float model; None: not scored."""
        first, last = self.steps[0].score, self.steps[-1].score
        return None if first is None or last is None else first - last

    @property
    def kept(self) -> tuple[RecoveredLayer, ...]:
        """Layers that stay float."""
        return tuple(layer for layer in self.layers if not layer.int8)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return {
            "placement": self.placement,
            "share_of_convolution_macs": round(self.share, 4),
            "drop": self.drop,
            "images": self.images,
            "warnings": list(self.warnings),
            "training": None if self.training is None else asdict(self.training),
            "steps": [asdict(step) for step in self.steps],
            "layers": [asdict(layer) for layer in self.layers],
            "equalised": [asdict(tensor) for tensor in self.equalized],
            "ranges": {name: asdict(limits) for name, limits in self.ranges.items()},
        }
