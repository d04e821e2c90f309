"""What `inspect` found as one self-contained page: the network as bars, one a layer, and the reasons in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice

from edgesparse.pages.html import Bar, bars, document, key
from edgesparse.predict.boards import Board
from edgesparse.predict.roofline import BOUNDS, LayerTime, Prediction, gains, verdict
from edgesparse.sparsity.inspect import Inspection, Layer

SHOWN_GAINS = 20
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
        _table(report, {time.name: time for time in predictions["FP16"].layers} if predictions else {}),
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
    engines = ((p.name, p.bound, f"{p.ms:.2f}", f"{base / p.ms:.2f}") for p in predictions.values())
    carry = (
        (g.name, g.bound, *(f"{ms * 1e3:.1f}" for ms in (g.fp16_ms, g.int8_ms, g.relu_ms))) for g in gains(predictions)
    )
    *saved, last = verdict(predictions)
    meant = "; ".join(f"{bound}: {words}" for bound, words in BOUNDS.items())
    return (
        f"<h2>Predicted on {escape(str(board))}</h2>"
        "<p>2:4 times are the least that it could take: TensorRT keeps the dense kernel wherever that is faster.</p>"
        f"{_small(('engine', 'bound by', 'ms', 'times as fast as FP16'), engines)}<p>Bound by {meant}.</p>"
        f"<p><b>{escape(last)}.</b></p><ul>{''.join(f'<li>{escape(line)}' for line in saved)}</ul>"
        f"<h2>Layers where 2:4 saves most, &micro;s at most</h2>"
        f"{_small(('layer', 'bound by', 'FP16', 'INT8', 'INT8 with ReLU'), islice(carry, SHOWN_GAINS))}"
    )


def _small(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as wide as it must be: two columns of words, then numbers."""
    head = "".join(f"<th>{name}" if i < 2 else f'<th class="n">{name}' for i, name in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(v)}" if i < 2 else f'<td class="n">{v}' for i, v in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<table class="small"><tr>{head}</tr>{body}</table>'


def _table(report: Inspection, times: Mapping[str, LayerTime]) -> str:
    rows = "".join(_row(i, layer, times) for i, layer in enumerate(report.layers))
    head = (
        '<th>layer<th>op<th>weights<th class="n">MACs M<th class="n">KB<th class="n">zeros %<th class="n">violations'
        + ('<th class="n">FP16 &micro;s<th>bound by' if times else "")
        + "<th>state<th>why"
    )
    return f'<h2>Layers</h2><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _row(i: int, layer: Layer, times: Mapping[str, LayerTime]) -> str:
    shape = "x".join(map(str, layer.shape or ())) or "-"
    numbers = [
        "-" if layer.macs is None else f"{layer.macs / 1e6:,.1f}",
        f"{layer.bytes / 1e3:,.1f}",
        f"{100 * layer.zero_share:.0f}",
        f"{layer.violations:,} of {layer.groups:,}" if layer.groups else "-",
    ]
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    if times:
        time = times.get(layer.name)
        cells += f'<td class="n">{time.ms * 1e3:,.1f}</td><td>{time.bound}</td>' if time else "<td></td><td></td>"
    why = "".join(f"<li>{escape(text)}" for text in (layer.reason, *layer.doubts) if text)
    return (
        f'<tr id="l{i}"><td>{escape(layer.name)}</td><td>{layer.op}</td><td>{shape} {layer.dtype or ""}</td>{cells}'
        f'<td class="state" style="--c:var(--{layer.state})">{STATES[layer.state]}</td><td><ul>{why}</ul></td></tr>\n'
    )
