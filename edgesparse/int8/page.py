"""The page of `quantize`: the score after each step, the loss of each layer, the ranges, and the reasons."""

from __future__ import annotations

from edgesparse.int8.recover_report import RecoverReport
from edgesparse.pages.html import Html, heading, number, paragraph, table
from edgesparse.pages.layers import ChangedLayer, LayersPage

STATES = {"sparse": "INT8", "ineligible": "float"}


def page(name: str, report: RecoverReport, more: str = "") -> str:
    """Return the page. `name` is the model's; `more` is markup that follows the steps."""
    layers = [
        ChangedLayer(r.name, "sparse" if r.int8 else "ineligible", r.why, r.macs, r.error, r.alone)
        for r in report.layers
    ]
    rendered = LayersPage(name, f"{name}: INT8", STATES)
    return rendered.render(_summary(report) + _steps(report) + more, layers, _equalized(report), _ranges(report))


def _summary(report: RecoverReport) -> str:
    lines = [
        f"{100 * report.share:.1f} % of the convolutions' multiply-accumulates are INT8; {len(report.kept)} of "
        f"{len(report.layers)} layers stay float. Calibrated on {report.images} images; Q/DQ placement "
        f"{report.placement}."
    ]
    if report.drop is not None:
        lines.append(Html(f"<b>{report.drop:.1f}</b> points lost from FP32."))
    if report.training is not None:
        lines.append(f"{report.training}.")
    return "".join(map(paragraph, (*lines, *(f"Warning: {warning}" for warning in report.warnings))))


def _steps(report: RecoverReport) -> str:
    rows = ((step.what, number(100 * step.change, 2), number(step.score)) for step in report.steps)
    return heading("Step by step") + table(("step", "outputs changed %", "score"), rows, (1, 2))


def _equalized(report: RecoverReport) -> str:
    if not report.equalized:
        return ""
    rows = ((e.tensor, ", ".join(e.layers), number(e.spread)) for e in report.equalized)
    spread = paragraph("Spread: the largest channel over the median channel, before.")
    return heading("Equalized channels") + spread + table(("tensor", "read by", "spread"), rows, (2,))


def _ranges(report: RecoverReport) -> str:
    rows = (
        (name, limits.method, *(f"{value:.4g}" for value in (limits.low, limits.high, limits.amax)))
        for name, limits in report.ranges.items()
    )
    columns = ("tensor", "method", "minimum", "maximum", Html("INT8 holds &plusmn;"))
    return heading("Ranges") + table(columns, rows, range(2, 5))
