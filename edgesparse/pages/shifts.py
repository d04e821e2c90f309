"""How confidences shift, as tables: per class, and along the range of confidences."""

from __future__ import annotations

from edgesparse.confidences import ConfidenceShift
from edgesparse.pages.html import heading, paragraph, table


def shift_tables(shift: ConfidenceShift | None, note: str = "", original: str = "FP32") -> str:
    """Return the markup; an empty text without a shift. `note`: a sentence about a correction.
    `original`: what the confidences are compared with.
    """
    if shift is None:
        return ""
    curve = (
        (f"{p.low:.2f} to {p.high:.2f}", str(p.boxes), f"{p.original:.3f}", f"{p.changed:.3f}") for p in shift.curve
    )
    classes = (
        (c.name, str(c.boxes), f"{c.change:+.3f}", f"{c.median:.3f}")
        for c in sorted(shift.classes, key=lambda each: -each.median)
    )
    return (
        heading("Confidences")
        + paragraph(f"{str(shift).capitalize()}.{f' {note.capitalize()}.' if note else ''}")
        + table((f"{original}'s confidence", "boxes", f"mean in {original}", "mean here"), curve, range(1, 4))
        + table(("class", "boxes", "median change", "median size"), classes, range(1, 4))
    )
