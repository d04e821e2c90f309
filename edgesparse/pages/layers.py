"""The page of a verb that changes a model layer by layer: a summary, a bar per layer, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgesparse.pages.html import (
    Bar,
    Html,
    Row,
    bars,
    document,
    heading,
    key,
    millions,
    percent,
    state_cell,
    table,
    text,
)

COLUMNS = ("layer", "state", "MACs M", "output lost %", "alone changes outputs %", "why")


@dataclass(frozen=True)
class ChangedLayer:
    """One layer. `error`: the loss of its output, including that of earlier layers, as a share of its variance;
    `alone`: what changing only this layer does to the model's outputs, as a share of their variance. None: not
    measured.
    """

    name: str
    state: str
    why: str
    macs: int | None
    error: float | None
    alone: float | None

    @property
    def title(self) -> str:
        return f"{self.name}: {millions(self.macs)} M MACs, {percent(self.error)} % lost, {self.why}"


@dataclass(frozen=True)
class LayersPage:
    """`name`: the model's name. `states`: this page's terms for sparse, dense and ineligible."""

    name: str
    title: str
    states: Mapping[str, str]

    def render(self, summary: str, layers: Sequence[ChangedLayer], *more: str) -> str:
        """Return the page; `summary` comes before the bars and `more` after the table, both markup."""
        macs = (Bar(layer.title, layer.state, layer.macs or 0) for layer in layers)
        errors = (Bar(layer.title, layer.state, layer.error or 0) for layer in layers)
        return document(
            self.title,
            f"<h1>{text(self.name)}</h1>{summary}",
            key(self.states.items(), "Layers"),
            bars("Multiply-accumulates per layer, in order", macs),
            bars("Output lost per layer, as a share of its variance, including the loss of earlier layers", errors),
            self._table(layers),
            *more,
        )

    def _table(self, layers: Sequence[ChangedLayer]) -> str:
        rows = (Row(self._cells(layer), f"l{i}") for i, layer in enumerate(layers))
        return heading("Layers") + table(COLUMNS, rows, range(2, 5))

    def _cells(self, layer: ChangedLayer) -> tuple[str, ...]:
        state: Html = state_cell(layer.state, self.states[layer.state])
        return layer.name, state, millions(layer.macs), percent(layer.error), percent(layer.alone), layer.why
