"""The page of `prune --method channels`: which layers have fewer channels, what that saves, and what each one lost."""

from __future__ import annotations

from edgesparse.compress.narrow_report import NarrowedLayer, NarrowReport
from edgesparse.pages.html import (
    Bar,
    Html,
    Row,
    bars,
    document,
    heading,
    key,
    number,
    paragraph,
    percent,
    state_cell,
    table,
    text,
)

STATES = {"sparse": "narrower", "dense": "as before", "ineligible": "removed"}
COLUMNS = ("layer", "state", "inputs", "outputs", Html("saves &micro;s"), "output lost %", "alone changes outputs %")


def page(name: str, report: NarrowReport, more: str = "") -> str:
    """Return the page. `name` is the model's; `more` is markup that follows the summary."""
    layers = report.layers
    return document(
        f"{name}: channels",
        f"<h1>{text(name)}</h1>",
        _summary(report) + more,
        key(STATES.items(), "Layers"),
        bars("Predicted time saved per layer, in order", (_bar(layer, max(layer.saved_ms, 0)) for layer in layers)),
        bars(
            "Output lost per layer, as a share of its variance, including the loss of earlier layers",
            (_bar(layer, layer.error or 0) for layer in layers),
        ),
        heading("Layers"),
        table(COLUMNS, (Row(_cells(layer), f"l{i}") for i, layer in enumerate(layers)), range(4, 7)),
    )


def _summary(report: NarrowReport) -> str:
    faster = f"{report.before_ms / report.after_ms:.2f}"
    ms = f"<b>{report.before_ms:.2f}</b> ms before, <b>{report.after_ms:.2f}</b> ms after"
    lines = [
        paragraph(f"{len(report.narrowed)} of {len(report.layers)} layers have fewer channels, without training."),
        paragraph(Html(f"Predicted in INT8 on {text(report.device)}: {ms}, {faster} times as fast.")),
    ]
    if report.drop is not None:
        scores = f"<b>{report.dense_score:.1f}</b> before, <b>{report.score:.1f}</b> after"
        lines.append(paragraph(Html(f"Score: {scores}, {report.drop:.1f} points lost.")))
    return "".join(lines)


def _state(layer: NarrowedLayer) -> str:
    return "dense" if not layer.narrowed else "sparse" if layer.outputs[1] else "ineligible"


def _bar(layer: NarrowedLayer, value: float) -> Bar:
    return Bar(f"{layer.name}: {layer.outputs[0]} to {layer.outputs[1]} channels", _state(layer), value)


def _cells(layer: NarrowedLayer) -> tuple[str, ...]:
    state, ms = _state(layer), number(1e3 * layer.saved_ms)
    widths = ("{} to {}".format(*counts) for counts in (layer.inputs, layer.outputs))
    return (layer.name, state_cell(state, STATES[state]), *widths, ms, percent(layer.error), percent(layer.change))
