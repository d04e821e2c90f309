"""What `inspect` found as one self-contained page: the network as bars, one a layer, and the reasons in words."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from edgesparse.graph.boards import Board
from edgesparse.graph.page import Bar, bars, document, key
from edgesparse.graph.predict import Prediction, gains
from edgesparse.graph.sparsity import Inspection, Layer

STATES = {"sparse": "2:4", "dense": "could be 2:4", "ineligible": "cannot be 2:4"}


def page(
    name: str, report: Inspection, board: Board | None = None, predictions: Mapping[str, Prediction] | None = None
) -> str:
    """The page as text. `name` is the model's; with `board` and what `predict_all` gave, predicted times too."""
    macs = "with an open input shape" if report.macs is None else f"{report.macs / 1e6:,.0f} M multiply-accumulates"
    body = [
        f"<h1>{escape(name)}</h1><p>{len(report.layers)} layers, {macs}.</p>",
        _key(report),
        _bars(report),
        _prediction(board, predictions) if board and predictions else "",
        _table(report),
    ]
    return document(f"{name}: 2:4", *body)


def _key(report: Inspection) -> str:
    words = ((state, f"{words}: {100 * report.share(state):.0f} %") for state, words in STATES.items())
    return key(words, "Share of the multiply-accumulates")


def _bars(report: Inspection) -> str:
    drawn = (Bar(_title(layer), layer.state, layer.macs or 0) for layer in report.layers)
    return bars("Multiply-accumulates a layer, in order", drawn)


def _title(layer: Layer) -> str:
    size = "unknown" if layer.macs is None else f"{layer.macs / 1e6:,.1f} M MACs"
    return f"{layer.name}: {size}, {STATES[layer.state]}"


def _prediction(board: Board, predictions: Mapping[str, Prediction]) -> str:
    base = predictions["FP16"].ms
    rows = "".join(
        f'<tr><td>{p.name}</td><td class="n">{p.ms:.2f}</td><td>{p.bound}</td><td class="n">{base / p.ms:.2f}</td></tr>'
        for p in predictions.values()
    )
    best = "".join(
        f'<tr><td>{escape(g.name)}</td><td class="n">{g.fp16_ms * 1e3:.1f}</td><td class="n">{g.int8_ms * 1e3:.1f}</td>'
        f'<td class="n">{g.relu_ms * 1e3:.1f}</td></tr>'
        for g in gains(predictions)[:20]
    )
    return (
        f"<h2>Predicted on {escape(str(board))}</h2>"
        "<p>2:4 times are what it gains at most: TensorRT keeps the dense kernel wherever that is faster.</p>"
        f'<table><tr><th>engine<th class="n">ms<th>bound by<th class="n">to FP16</tr>{rows}</table>'
        "<h2>Layers that would carry the gain</h2><table>"
        '<tr><th>layer<th class="n">FP16 &micro;s<th class="n">INT8 &micro;s'
        f'<th class="n">INT8 with ReLU &micro;s</tr>{best}</table>'
    )


def _table(report: Inspection) -> str:
    rows = "".join(_row(i, layer) for i, layer in enumerate(report.layers))
    head = (
        '<th>layer<th>op<th>weights<th class="n">MACs M<th class="n">KB<th class="n">zeros %<th class="n">violations'
        "<th>state<th>why"
    )
    return f'<h2>Layers</h2><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _row(i: int, layer: Layer) -> str:
    shape = "x".join(map(str, layer.shape or ())) or "-"
    numbers = (
        "-" if layer.macs is None else f"{layer.macs / 1e6:,.1f}",
        f"{layer.bytes / 1e3:,.1f}",
        f"{100 * layer.zero_share:.0f}",
        f"{layer.violations:,} of {layer.groups:,}" if layer.groups else "-",
    )
    why = "".join(f"<li>{escape(text)}" for text in (layer.reason, *layer.doubts) if text)
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    return (
        f'<tr id="l{i}"><td>{escape(layer.name)}</td><td>{layer.op}</td><td>{shape} {layer.dtype or ""}</td>{cells}'
        f'<td class="state" style="--c:var(--{layer.state})">{STATES[layer.state]}</td><td><ul>{why}</ul></td></tr>\n'
    )
