"""What `reconstruct` did as one self-contained page: each layer's products and lost output as bars, and why."""

from __future__ import annotations

from html import escape

from edgesparse.pages.html import Bar, bars, document, key
from edgesparse.sparsity.reconstruction import ReconstructedLayer, ReconstructReport

STATES = {"sparse": "2:4", "dense": "dense", "ineligible": "cannot be 2:4"}


def page(name: str, report: ReconstructReport) -> str:
    """The page as text. `name` is the model's."""
    macs = (Bar(f"{r.name}: {r.macs / 1e6:,.1f} M MACs, {r.why}", r.state, r.macs) for r in report.layers)
    errors = (Bar(f"{r.name}: {_percent(r.error)} %, {r.why}", r.state, r.error or 0) for r in report.layers)
    return document(
        f"{name}: pruned to 2:4",
        f"<h1>{escape(name)}</h1>{_summary(report)}",
        key(STATES.items(), "Layers"),
        bars("Multiply-accumulates a layer, in order", macs),
        bars("Lost of each layer's output, as a share of its variance, with what earlier layers lost", errors),
        _table(report),
    )


def _summary(report: ReconstructReport) -> str:
    pruned = [layer for layer in report.layers if layer.pruned]
    made = f"{len(pruned)} of {len(report.layers)} layers, {100 * report.share:.0f} % of the eligible"
    said = f"<p>{made} multiply-accumulates, are 2:4 now, refitted without training.</p>"
    if report.drop is not None:
        scores = f"<b>{report.dense_score:.1f}</b> before, <b>{report.score:.1f}</b> after"
        said += f"<p>Score {scores}: {report.drop:.1f} lost.</p>"
    return said


def _table(report: ReconstructReport) -> str:
    rows = "".join(_row(i, layer) for i, layer in enumerate(report.layers))
    head = (
        '<th>layer<th>state<th class="n">MACs M<th class="n">output lost %<th class="n">alone changes outputs %<th>why'
    )
    return f'<h2>Layers</h2><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _row(i: int, layer: ReconstructedLayer) -> str:
    numbers = (f"{layer.macs / 1e6:,.1f}", _percent(layer.error), _percent(layer.change))
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    return (
        f'<tr id="l{i}"><td>{escape(layer.name)}</td><td class="state" style="--c:var(--{layer.state})">'
        f"{STATES[layer.state]}</td>{cells}<td>{escape(layer.why)}</td></tr>\n"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
