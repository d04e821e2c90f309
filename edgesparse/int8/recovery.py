"""What `recover` did, step by step and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgesparse.int8.calibration import Range
from edgesparse.int8.equalise import Equalised
from edgesparse.int8.placement import Placement


@dataclass(frozen=True)
class Step:
    """What had been done, and how the INT8 model did then: `change` of its outputs on a few images, as a share of
    their variance; `score` on labelled data, where asked for."""

    what: str
    change: float
    score: float | None


@dataclass(frozen=True)
class RecoveredLayer:
    """One layer. `why` it is INT8 or float; `macs` as QuantisedLayer has them. `error`: what its output lost, by its
    own rounding and by all before it, as a share of its variance. `alone`: what this layer alone in INT8 changes in the
    model's outputs, where that was measured."""

    name: str
    int8: bool
    why: str
    macs: int | None
    error: float | None = None
    alone: float | None = None


@dataclass(frozen=True)
class RecoverReport:
    """What `recover` did. `share` of the convolutions' multiply-accumulates is INT8; `steps` begins with the float
    model; `ranges` are those of the quantised tensors."""

    placement: Placement
    share: float
    steps: tuple[Step, ...]
    layers: tuple[RecoveredLayer, ...]
    equalised: tuple[Equalised, ...]
    ranges: Mapping[str, Range]
    images: int
    warnings: tuple[str, ...]

    @property
    def drop(self) -> float | None:
        """Points lost from the float model; None where nothing was scored."""
        first, last = self.steps[0].score, self.steps[-1].score
        return None if first is None or last is None else first - last

    @property
    def kept(self) -> tuple[RecoveredLayer, ...]:
        """The layers that stay float."""
        return tuple(layer for layer in self.layers if not layer.int8)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "placement": self.placement,
            "share_of_convolution_macs": round(self.share, 4),
            "drop": self.drop,
            "images": self.images,
            "warnings": list(self.warnings),
            "steps": [asdict(step) for step in self.steps],
            "layers": [asdict(layer) for layer in self.layers],
            "equalised": [asdict(tensor) for tensor in self.equalised],
            "ranges": {name: asdict(found) for name, found in self.ranges.items()},
        }
