"""The page of `inspect`: a bar per layer of the model, and why each layer is or is not 2:4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from edgesparse.pages.html import (
    Bar,
    Html,
    Row,
    bars,
    bullets,
    document,
    heading,
    key,
    millions,
    number,
    paragraph,
    state_cell,
    table,
    text,
)
from edgesparse.predict.boards import Board
from edgesparse.predict.roofline import BOUNDS, LayerTime, Prediction, gains, verdict
from edgesparse.sparsity.inspect import InspectedLayer, Inspection

SHOWN_GAINS = 20
STATES = {"sparse": "2:4", "dense": "could be 2:4", "ineligible": "cannot be 2:4"}
MICROSECONDS = Html("FP16 &micro;s")


def page(
    name: str, report: Inspection, board: Board | None = None, predictions: Mapping[str, Prediction] | None = None
) -> str:
    """Return the page. `name` is the model's; `board` and the result of `predict_all` add predicted times."""
    macs = "with an open input shape" if report.macs is None else f"{report.macs / 1e6:,.0f} M multiply-accumulates"
    words = ((state, f"{words}: {100 * report.share(state):.0f} %") for state, words in STATES.items())
    drawn = (Bar(_title(layer), layer.state, layer.macs or 0) for layer in report.layers)
    return document(
        f"{name}: 2:4",
        f"<h1>{text(name)}</h1>",
        paragraph(f"{len(report.layers)} layers, {macs}."),
        *(paragraph(f"{note}.") for note in report.notes),
        key(words, "Share of the multiply-accumulates"),
        bars("Multiply-accumulates per layer, in order", drawn),
        _prediction(board, predictions) if board and predictions else "",
        _layers(report, {time.name: time for time in predictions["FP16"].layers} if predictions else {}),
    )


def _title(layer: InspectedLayer) -> str:
    size = "unknown size" if layer.macs is None else f"{millions(layer.macs)} M MACs"
    return f"{layer.name}: {size}, {STATES[layer.state]}"


def _prediction(board: Board, predictions: Mapping[str, Prediction]) -> str:
    base = predictions["FP16"].ms
    engines = ((p.name, p.bound, number(p.ms, 2), number(base / p.ms, 2)) for p in predictions.values())
    saved = (
        (g.name, g.bound, *(number(ms * 1e3) for ms in (g.fp16_ms, g.int8_ms, g.relu_ms))) for g in gains(predictions)
    )
    *lines, conclusion = verdict(predictions)
    meaning = "; ".join(f"{bound}: {words}" for bound, words in BOUNDS.items())
    columns = ("layer", "bound by", "FP16", "INT8", "INT8 with ReLU")
    return "".join(
        (
            heading(f"Predicted on {board}"),
            paragraph("2:4 times are lower bounds: TensorRT keeps the dense kernel wherever that is faster."),
            table(("engine", "bound by", "ms", "speedup over FP16"), engines, (2, 3), "small"),
            paragraph(f"Bound by {meaning}."),
            paragraph(Html(f"<b>{text(conclusion)}.</b>")),
            bullets(lines),
            heading(Html("Layers where 2:4 saves most, &micro;s at most")),
            table(columns, islice(saved, SHOWN_GAINS), (2, 3, 4), "small"),
        )
    )


def _layers(report: Inspection, times: Mapping[str, LayerTime]) -> str:
    columns = ["layer", "op", "weights", "MACs M", "KB", "zeros %", "violations"]
    columns += [MICROSECONDS, "bound by"] if times else []
    rows = (Row(tuple(_cells(layer, times)), f"l{i}") for i, layer in enumerate(report.layers))
    return heading("Layers") + table((*columns, "state", "why"), rows, range(3, 8 if times else 7))


def _cells(layer: InspectedLayer, times: Mapping[str, LayerTime]) -> Iterator[str]:
    shape = "x".join(map(str, layer.shape or ())) or "-"
    yield from (layer.name, layer.op, f"{shape} {layer.dtype or ''}", millions(layer.macs), number(layer.bytes / 1e3))
    yield number(100 * layer.zero_share, 0)
    yield f"{layer.violations:,} of {layer.groups:,}" if layer.groups else "-"
    if times:
        time = times.get(layer.name)
        yield from (number(time.ms * 1e3), time.bound) if time else ("", "")
    yield state_cell(layer.state, STATES[layer.state])
    yield bullets(reason for reason in (layer.reason, *layer.doubts) if reason)
