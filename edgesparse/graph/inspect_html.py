"""What `inspect` found as one self-contained page: the network as bars, one a layer, and the reasons in words."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from edgesparse.graph.boards import Board
from edgesparse.graph.predict import Prediction, gains
from edgesparse.graph.sparsity import Inspection, Layer

STATES = {"sparse": "2:4", "dense": "could be 2:4", "ineligible": "cannot be 2:4"}
STYLE = """
:root { color-scheme: light dark; --sparse: #1a7f4b; --dense: #c77700; --ineligible: #8a8f98 }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.bars { display: flex; align-items: flex-end; gap: 1px; height: 14rem; border-bottom: 1px solid; overflow-x: auto }
.bars a { flex: 1 0 3px; min-height: 2px } .bars a:hover, .bars a:focus { outline: 2px solid }
.sparse { background: var(--sparse) } .dense { background: var(--dense) } .ineligible { background: var(--ineligible) }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .35em 0 1em }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: 13px }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8884; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } tr:target { outline: 2px solid }
td.state { white-space: nowrap } td.state::before { content: ""; display: inline-block; width: .7em; height: .7em;
  margin-right: .4em; background: var(--c) } ul { margin: 0; padding-left: 1em }
"""


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
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(name)}: 2:4</title>'
    )
    head += f"<style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(body)}</body></html>\n'


def _key(report: Inspection) -> str:
    parts = (
        f'<span class="{state}"></span>{words}: {100 * report.share(state):.0f} %' for state, words in STATES.items()
    )
    return f'<p class="key">Share of the multiply-accumulates: {"".join(parts)}</p>'


def _bars(report: Inspection) -> str:
    most = max((layer.macs or 0 for layer in report.layers), default=0) or 1
    bars = (
        f'<a class="{layer.state}" href="#l{i}" title="{escape(_title(layer))}" '
        f'style="height:{100 * (layer.macs or 0) / most:.2f}%"></a>'
        for i, layer in enumerate(report.layers)
    )
    return f'<h2>Multiply-accumulates a layer, in order</h2><div class="bars">{"".join(bars)}</div>'


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
