"""What a comparison of confidences measures: how much a changed model shifts those of the original's boxes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KEPT = 0.25
"""Confidence from which a box of the original counts: the default of `run.conf`."""


@dataclass(frozen=True)
class ClassShift:
    """One class: the number of pairs, the median change of confidence with its sign, and its median size."""

    name: str
    boxes: int
    change: float
    median: float


@dataclass(frozen=True)
class CurvePoint:
    """The pairs whose original confidence is from `low` to `high`: their number, and both mean confidences."""

    low: float
    high: float
    boxes: int
    original: float
    changed: float


@dataclass(frozen=True)
class ConfidenceShift:
    """`boxes` of the original with at least KEPT on `images` images, of which `lost` have no counterpart. For the
    others: `median` and `p90`, the median and the 90th percentile of the size of the change of confidence, 0..1;
    `change`, its median with its sign.
    """

    images: int
    boxes: int
    lost: int
    median: float
    p90: float
    change: float
    classes: tuple[ClassShift, ...]
    curve: tuple[CurvePoint, ...]

    def __str__(self) -> str:
        return (
            f"confidences shift by {self.median:.3f} (median) and {self.p90:.3f} (90th percentile), "
            f"{self.change:+.3f} with the sign, on {self.boxes} boxes of {self.images} images; {self.lost} are lost"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return asdict(self)
