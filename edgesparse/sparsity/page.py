"""The page of `prune --method reconstruct`: which layers are now 2:4, what each one lost, and why."""

from __future__ import annotations

from edgesparse.pages.html import Html, paragraph
from edgesparse.pages.layers import ChangedLayer, LayersPage
from edgesparse.sparsity.reconstruct_report import ReconstructReport

STATES = {"sparse": "2:4", "dense": "dense", "ineligible": "cannot be 2:4"}


def page(name: str, report: ReconstructReport, more: str = "") -> str:
    """Return the page. `name` is the model's; `more` is markup that follows the summary."""
    layers = [ChangedLayer(r.name, r.state, r.why, r.macs, r.error, r.change) for r in report.layers]
    return LayersPage(name, f"{name}: pruned to 2:4", STATES).render(_summary(report) + more, layers)


def _summary(report: ReconstructReport) -> str:
    pruned = [layer for layer in report.layers if layer.pruned]
    share = f"{len(pruned)} of {len(report.layers)} layers, {100 * report.share:.0f} % of the eligible"
    lines = [paragraph(f"{share} multiply-accumulates, are now 2:4, refitted on images without labels.")]
    if report.training is not None:
        lines.append(paragraph(f"{report.training}."))
    if report.drop is not None:
        scores = f"<b>{report.dense_score:.1f}</b> before, <b>{report.score:.1f}</b> after"
        lines.append(paragraph(Html(f"Score: {scores}, {report.drop:.1f} points lost.")))
    return "".join(lines)
