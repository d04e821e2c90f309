"""The keyword arguments of `edgesparse.slim`, `prune`, `quantize` and `evaluate`, for type checkers.

Each is a field of SlimOptions, PruneOptions, QuantizeOptions or EvaluateOptions, where it is documented.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from edgesparse.int8.placement import Placement
from edgesparse.tasks.evaluate import TilesLike
from edgesparse.tasks.prune import PruneMethod
from edgesparse.tasks.quantize import RangeMethod

if TYPE_CHECKING:
    from typing_extensions import Required


class PruneKeywords(TypedDict, total=False):
    method: PruneMethod
    layers: Sequence[str] | Literal["auto"] | None
    permute: bool
    images: str | Path | None
    count: int
    share: float | None
    max_drop: float | None
    device: str | None
    steps: int
    annotations: str | Path | None
    annotated_images: str | Path | None
    names: str | None
    state: str | Path | None
    html: str | Path | None
    force: bool


class SlimKeywords(TypedDict, total=False):
    maps: bool
    device: str
    precision: str


class QuantizeKeywords(TypedDict, total=False):
    images: Required[str | Path]
    count: int
    placement: Placement
    method: RangeMethod
    max_drop: float | None
    min_map: float | None
    max_confidence_shift: float | None
    device: str | None
    annotations: str | Path | None
    annotated_images: str | Path | None
    keep: Sequence[str]
    exact: bool
    steps: int
    state: str | Path | None
    calibration: str | Path | None
    from_table: str | Path | None
    table: str | Path | None
    names: str | None
    html: str | Path | None
    force: bool


class EvaluateKeywords(TypedDict, total=False):
    images: str | Path | None
    names: str | None
    tiles: TilesLike | None
    store: str | Path
