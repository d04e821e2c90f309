"""What the pages about a network share: one self-contained HTML file, and its layers as bars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --sparse: #1a7f4b; --dense: #c77700; --ineligible: #8a8f98 }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.bars { display: flex; align-items: flex-end; gap: 1px; height: 14rem; border-bottom: 1px solid; overflow-x: auto }
.bars a { flex: 1 0 3px; min-height: 2px } .bars a:hover, .bars a:focus { outline: 2px solid }
.sparse { background: var(--sparse) } .dense { background: var(--dense) } .ineligible { background: var(--ineligible) }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .35em 0 1em }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: 13px }
table.small { width: auto } .wide tr:hover { background: #8882 }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8884; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } tr:target { outline: 2px solid }
td.state { white-space: nowrap } td.state::before { content: ""; display: inline-block; width: .7em; height: .7em;
  margin-right: .4em; background: var(--c) } ul { margin: 0; padding-left: 1em }
"""


@dataclass(frozen=True)
class Bar:
    """One layer: its height in any unit, and its `state` (sparse, dense or ineligible), which colours it."""

    title: str
    state: str
    height: float


def document(title: str, *body: str) -> str:
    """The page as text."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(body)}</body></html>\n'


def bars(heading: str, layers: Iterable[Bar]) -> str:
    """Bars in the graph's order; the i-th leads to the table's row `l{i}`."""
    shown = list(layers)
    most = max((bar.height for bar in shown), default=0) or 1
    drawn = (
        f'<a class="{bar.state}" href="#l{i}" title="{escape(bar.title)}" '
        f'style="height:{100 * bar.height / most:.2f}%"></a>'
        for i, bar in enumerate(shown)
    )
    return f'<h2>{escape(heading)}</h2><div class="bars">{"".join(drawn)}</div>'


def key(words: Iterable[tuple[str, str]], lead: str) -> str:
    """What the colours mean: (state, words) each."""
    parts = (f'<span class="{state}"></span>{escape(text)}' for state, text in words)
    return f'<p class="key">{escape(lead)}: {"".join(parts)}</p>'
