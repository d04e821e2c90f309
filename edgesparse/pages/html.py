"""The building blocks of every HTML page that edgesparse writes: one stylesheet, tables, bars, tiles.

A page is one self-contained file without scripts. Text is escaped wherever it enters; markup has the type `Html`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#66707f;--line:#dfe4ea;--ground:#fff;--panel:#f5f7f9;--good:#1a7f4b;
--goodground:#e5f4eb;--bad:#b3261e;--sparse:#1a7f4b;--dense:#5b7fa6;--ineligible:#8a8f98}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#98a2b0;--line:#323a45;--ground:#14181d;--panel:#1d232a;
--good:#4cc38a;--goodground:#16302399;--bad:#ff8a80;--sparse:#4cc38a;--dense:#7fa3cc}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1.2rem;color:var(--ink);
background:var(--ground)}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2.4rem 0 .6rem}p{margin:.3rem 0}.soft{color:var(--soft)}
ul{margin:0;padding-left:1.2rem}code{font-size:.85em;overflow-wrap:anywhere}
summary{cursor:pointer}details{margin:.4rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.88rem}table.small{width:auto}
td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr:target{outline:2px solid}.wide tr:hover{background:var(--panel)}
.state{white-space:nowrap}.state::before{content:"";display:inline-block;width:.7em;height:.7em;margin-right:.4em;
background:var(--c)}
.bars{display:flex;align-items:flex-end;gap:1px;height:14rem;border-bottom:1px solid;overflow-x:auto}
.bars a{flex:1 0 3px;min-height:2px;background:var(--c)}.bars a:hover,.bars a:focus{outline:2px solid}
.key span{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 1em;background:var(--c)}
.tiles{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.tile{background:var(--panel);border-radius:8px;padding:.7rem 1.1rem;min-width:8rem}
.tile b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:.85rem}
"""
"""`.n` is a numeric cell; `--c` is the color of a state: var(--sparse), var(--dense) or var(--ineligible)."""


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


@dataclass(frozen=True)
class Row:
    """One row of a table. `mark` is its id, which bars link to; `kind` is its CSS class."""

    cells: Sequence[str]
    mark: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Bar:
    """One layer: its height in any unit, and its `state` (sparse, dense or ineligible), which sets its color."""

    title: str
    state: str
    height: float


def document(title: str, *body: str, style: str = "") -> str:
    """Return the page. `body` is markup; `style` is CSS that only this page needs."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(body)}</body></html>\n'


def text(value: object) -> Html:
    """Return `value` escaped, unless it is markup."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def heading(words: str) -> Html:
    return Html(f"<h2>{text(words)}</h2>")


def paragraph(words: str, kind: str = "") -> Html:
    return Html(f"<p{_class(kind)}>{text(words)}</p>")


def bullets(lines: Iterable[str]) -> Html:
    return Html(f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>")


def details(summary: str, body: str, *, opened: bool = False) -> Html:
    """Return `body`, which is markup, folded behind `summary`."""
    return Html(f"<details{' open' if opened else ''}><summary>{text(summary)}</summary>{body}</details>")


def tiles(values: Iterable[tuple[str, str]]) -> Html:
    """Return the most important numbers in large type, each (label, number)."""
    shown = "".join(
        f'<div class="tile"><b>{text(value)}</b><span>{text(words)}</span></div>' for words, value in values
    )
    return Html(f'<div class="tiles">{shown}</div>')


def table(
    columns: Sequence[str], rows: Iterable[Row | Sequence[str]], numbers: Collection[int] = (), kind: str = ""
) -> Html:
    """Return a table; `numbers` are the right-aligned columns. `kind` "small" makes it only as wide as its text."""
    body = "".join(_row(row if isinstance(row, Row) else Row(row), numbers) for row in rows)
    drawn = f"<table{_class(kind)}><tr>{_cells('th', columns, numbers)}</tr>{body}</table>"
    return Html(drawn if kind == "small" else f'<div class="wide">{drawn}</div>')


def pairs(items: Iterable[tuple[str, str]]) -> Html:
    """Return a table of names and values without a header."""
    rows = "".join(f"<tr><th>{text(name)}</th><td><code>{text(value)}</code></td></tr>" for name, value in items)
    return Html(f'<div class="wide"><table>{rows}</table></div>')


def state_cell(state: str, words: str) -> Html:
    """Return `words` after the color of `state`."""
    return Html(f'<span class="state" style="--c:var(--{state})">{text(words)}</span>')


def bars(title: str, layers: Iterable[Bar]) -> Html:
    """Return bars in graph order; the i-th links to the table row `l{i}`."""
    shown = list(layers)
    most = max((bar.height for bar in shown), default=0) or 1
    drawn = "".join(
        f'<a style="--c:var(--{bar.state});height:{100 * bar.height / most:.2f}%" href="#l{i}" '
        f'title="{text(bar.title)}"></a>'
        for i, bar in enumerate(shown)
    )
    return Html(f'{heading(title)}<div class="bars">{drawn}</div>')


def key(words: Iterable[tuple[str, str]], lead: str) -> Html:
    """Return the color key: (state, label) each."""
    parts = "".join(f'<span style="--c:var(--{state})"></span>{text(label)}' for state, label in words)
    return Html(f'<p class="key">{text(lead)}: {parts}</p>')


def number(value: float | None, digits: int = 1, missing: str = "-") -> str:
    """Return a number with thousands separators, or `missing`."""
    return missing if value is None else f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, 2)


def millions(count: int | None) -> str:
    return number(None if count is None else count / 1e6, 1)


def _row(row: Row, numbers: Collection[int]) -> str:
    mark = f' id="{row.mark}"' if row.mark else ""
    return f"<tr{mark}{_class(row.kind)}>{_cells('td', row.cells, numbers)}</tr>\n"


def _cells(tag: str, values: Iterable[str], numbers: Collection[int]) -> str:
    return "".join(f"<{tag}{_class('n' * (i in numbers))}>{text(value)}</{tag}>" for i, value in enumerate(values))


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
