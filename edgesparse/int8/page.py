"""What `recover` did as one self-contained page: the score after each step, errors and ranges, and why."""

from __future__ import annotations

from html import escape

from edgesparse.int8.recovery import RecoveredLayer, RecoverReport
from edgesparse.pages.html import Bar, bars, document, key

STATES = {"sparse": "INT8", "ineligible": "float"}


def page(name: str, report: RecoverReport) -> str:
    """The page as text. `name` is the model's."""
    macs = (Bar(_title(layer), _state(layer), layer.macs or 0) for layer in report.layers)
    errors = (Bar(_title(layer), _state(layer), layer.error or 0) for layer in report.layers)
    return document(
        f"{name}: INT8",
        f"<h1>{escape(name)}</h1>{_summary(report)}{_steps(report)}",
        key(STATES.items(), "Layers"),
        bars("Multiply-accumulates a layer, in order", macs),
        bars("Lost of each layer's output, as a share of its variance, with what earlier layers lost", errors),
        _layers(report),
        _equalised(report),
        _ranges(report),
    )


def _summary(report: RecoverReport) -> str:
    kept = len(report.kept)
    said = (
        f"<p>{100 * report.share:.1f} % of the convolutions' multiply-accumulates are INT8; {kept} of "
        f"{len(report.layers)} layers stay float. Calibrated on {report.images} images; Q/DQ placement "
        f"{report.placement}.</p>"
    )
    if report.drop is not None:
        said += f"<p><b>{report.drop:.1f}</b> points lost from FP32.</p>"
    return said + "".join(f"<p>Warning: {escape(warning)}</p>" for warning in report.warnings)


def _steps(report: RecoverReport) -> str:
    rows = "".join(
        _row([escape(step.what)], [f"{100 * step.change:.2f}", "-" if step.score is None else f"{step.score:.1f}"])
        for step in report.steps
    )
    return (
        f'<h2>Step by step</h2><table><tr><th>step<th class="n">outputs changed %<th class="n">score</tr>{rows}</table>'
    )


def _layers(report: RecoverReport) -> str:
    head = '<th>layer<th>why<th class="n">MACs M<th class="n">output lost %<th class="n">alone changes outputs %'
    rows = []
    for i, layer in enumerate(report.layers):
        macs = "-" if layer.macs is None else f"{layer.macs / 1e6:,.1f}"
        numbers = [macs, _percent(layer.error), _percent(layer.alone)]
        rows.append(_row([escape(layer.name), escape(layer.why)], numbers, f"l{i}"))
    return f'<h2>Layers</h2><div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _equalised(report: RecoverReport) -> str:
    if not report.equalised:
        return ""
    rows = "".join(
        _row(
            [escape(e.tensor), escape(", ".join(e.layers)), "in the layer before" if e.folded else "a product behind"],
            [f"{e.spread:.1f}"],
        )
        for e in report.equalised
    )
    return (
        "<h2>Channels made even</h2><p>Spread: the largest channel over the median one, before.</p>"
        f'<table><tr><th>tensor<th>read by<th>how<th class="n">spread</tr>{rows}</table>'
    )


def _ranges(report: RecoverReport) -> str:
    rows = "".join(
        _row([escape(name), found.method], [f"{value:.4g}" for value in (found.low, found.high, found.amax)])
        for name, found in report.ranges.items()
    )
    head = '<th>tensor<th>method<th class="n">least<th class="n">largest<th class="n">INT8 holds &plusmn;'
    return f'<h2>Ranges</h2><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _row(words: list[str], numbers: list[str], mark: str = "") -> str:
    cells = "".join(f"<td>{word}" for word in words) + "".join(f'<td class="n">{number}' for number in numbers)
    return f"<tr{f' id={mark}' if mark else ''}>{cells}</tr>\n"


def _state(layer: RecoveredLayer) -> str:
    return "sparse" if layer.int8 else "ineligible"


def _title(layer: RecoveredLayer) -> str:
    macs = "" if layer.macs is None else f"{layer.macs / 1e6:,.1f} M MACs, "
    return f"{layer.name}: {macs}{_percent(layer.error)} % lost, {layer.why}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
