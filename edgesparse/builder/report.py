"""The page beside a package: what was built, what was tried, what ran sparse, and why this one was chosen."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence

from edgesparse.package.manifest import Candidate, LayerRecord, LayerVerdict, Manifest

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#66707f;--line:#dfe4ea;--ground:#fff;--panel:#f5f7f9;--good:#1a7f4b;
--goodground:#e5f4eb;--bad:#b3261e;--dense:#5b7fa6}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#98a2b0;--line:#323a45;--ground:#14181d;--panel:#1d232a;
--good:#4cc38a;--goodground:#16302399;--bad:#ff8a80;--dense:#7fa3cc}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1.2rem;color:var(--ink);
background:var(--ground)}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2.4rem 0 .6rem}p{margin:.3rem 0}
.soft{color:var(--soft)}.tiles{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.tile{background:var(--panel);border-radius:8px;padding:.7rem 1.1rem;min-width:8rem}
.tile b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:.85rem}
ul.verdict{padding-left:1.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.88rem}
td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.chosen td{background:var(--goodground)}tr.chosen td:first-child{font-weight:700}
table.c td:first-child{white-space:nowrap}table.c td:last-child{min-width:16rem}
tr.refused .o,tr.failed .o{color:var(--bad)}tr.chosen .o{color:var(--good);font-weight:700}
code{font-size:.85em;overflow-wrap:anywhere}summary{cursor:pointer}details{margin:.4rem 0}
.ladder{display:grid;grid-template-columns:max-content 1fr 1fr 1fr;gap:.35rem 1.2rem;align-items:center}
.ladder .h{color:var(--soft);font-size:.85rem}.ladder .l{font-weight:600}
.bar{display:flex;align-items:center;gap:.5rem;font-variant-numeric:tabular-nums;font-size:.85rem}
.bar i{display:block;height:1.05rem;border-radius:3px;background:var(--dense);min-width:2px}
.bar.s i{background:var(--good)}.bar span{white-space:nowrap}.bar em{display:none;color:var(--soft);font-style:normal}
@media(max-width:45rem){.ladder{grid-template-columns:1fr}.ladder .h{display:none}.bar em{display:inline}}
"""
_LADDER = (
    ("FP32", "fp32", False),
    ("FP16", "fp16", False),
    ("FP16 2:4", "fp16", True),
    ("INT8", "int8", False),
    ("INT8 2:4", "int8", True),
)


def page(manifest: Manifest) -> str:
    """One self-contained HTML page."""
    parts = (_head(manifest), _ladder(manifest), _candidates(manifest), _sparsity(manifest), _engine(manifest))
    title = _text(manifest.model)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>{''.join(parts)}{_facts(manifest)}</html>\n"
    )


def _head(manifest: Manifest) -> str:
    chosen = next((c for c in manifest.candidates if c.chosen), None)
    tiles = ""
    if chosen is not None:
        said = {"candidate": chosen.name, "ms, the engine alone": _number(chosen.latency_ms, 3)}
        said |= {"mAP 50-95": f"{chosen.score.map:.1f}"} if chosen.score else {}
        said |= {"MB on disk": _number(chosen.file_mb, 1)}
        said |= {"layers run 2:4": str(len(chosen.picked))} if chosen.sparse else {}
        tiles = "".join(f'<div class="tile"><b>{_text(v)}</b><span>{_text(k)}</span></div>' for k, v in said.items())
    lines = [f"{c.name}: {c.reason}" for c in manifest.candidates if c.chosen] + list(manifest.verdict)
    listed = "".join(f"<li>{_text(line)}</li>" for line in lines)
    machine = manifest.machine
    where = " ".join(machine.get(k, "") for k in ("model", "gpu")).strip() or machine.get("cpu", "")
    about = f"{manifest.backend}, {where}, {manifest.created}, {manifest.build_id}"
    return (
        f'<h1>{_text(manifest.model)}</h1><p class="soft">{_text(about)}</p>'
        f'<div class="tiles">{tiles}</div><ul class="verdict">{listed}</ul>'
    )


def _ladder(manifest: Manifest) -> str:
    """The fastest of each precision, dense and 2:4, as bars."""
    steps = []
    for label, precision, sparse in _LADDER:
        fits = [c for c in manifest.candidates if (c.precision, c.sparse) == (precision, sparse) and c.latency_ms]
        if fits:
            steps.append((label, min(fits, key=lambda c: c.latency_ms or 0)))
    columns: tuple[tuple[str, Callable[[Candidate], float | None], int], ...] = (
        ("milliseconds", lambda c: c.latency_ms, 3),
        ("MB on disk", lambda c: c.file_mb, 1),
        ("mAP 50-95", lambda c: c.score.map if c.score else None, 1),
    )
    cells = ['<div class="h"></div>', *(f'<div class="h">{name}</div>' for name, _, _ in columns)]
    for label, step in steps:
        cells.append(f'<div class="l">{label}</div>')
        for unit, value, digits in columns:
            most = max((value(other) or 0 for _, other in steps), default=0) or 1
            cells.append(_bar(value(step), most, digits, unit, step))
    return f'<h2>Precision and 2:4, the fastest of each</h2><div class="ladder">{"".join(cells)}</div>'


def _bar(value: float | None, most: float, digits: int, unit: str, step: Candidate) -> str:
    if value is None:
        return '<div class="bar soft">not scored</div>'
    return (
        f'<div class="bar{" s" if step.sparse else ""}" title="{_text(step.name)}">'
        f'<i style="width:{65 * value / most:.1f}%"></i><span>{value:.{digits}f} <em>{unit}</em></span></div>'
    )


def _candidates(manifest: Manifest) -> str:
    header = ("candidate", "", "ms", "± ms", "mAP", "mAP50", "2:4 layers", "file MB", "build s", "host MB", "GPU MB")
    rows = "".join(map(_candidate, manifest.candidates))
    commands = "".join(
        f"<p>{_text(c.name)}</p><p><code>{_text(c.command)}</code></p>" for c in manifest.candidates if c.command
    )
    more = f"<details><summary>The same by trtexec</summary>{commands}</details>" if commands else ""
    warned = "".join(
        f"<p>{_text(c.name)}: {_text('; '.join(c.warnings))}</p>" for c in manifest.candidates if c.warnings
    )
    more += f"<details><summary>What the builder warned of</summary>{warned}</details>" if warned else ""
    return (
        f'<h2>Candidates</h2><div class="wide"><table class="c"><tr>{_cells("th", (*header, "why"), range(2, 11))}</tr>'
        f"{rows}</table></div>{more}"
    )


def _candidate(c: Candidate) -> str:
    score = (f"{c.score.map:.1f}", f"{c.score.map50:.1f}") if c.score else ("", "")
    picked = f"{len(c.picked)} of {max(len(c.eligible), len(c.picked))}" if c.sparse and c.latency_ms else ""
    numbers = (
        _number(c.latency_ms, 3),
        _number(c.spread_ms if c.latency_ms else None, 4),
        *score,
        picked,
        _number(c.file_mb or None, 1),
        _number(c.build_seconds or None, 1),
        _number(c.host_mb or None, 0),
        _number(c.device_mb, 0),
    )
    why = "; ".join((c.reason, *(["memory limited: rung " + str(c.rung)] if c.rung else []), *c.degraded[:2]))
    cells = _cells("td", numbers, range(9))
    name = f'<td>{_text(c.name)}</td><td class="o">{c.outcome}</td>'
    return f'<tr class="{c.outcome}">{name}{cells}<td>{_text(why)}</td></tr>'


def _sparsity(manifest: Manifest) -> str:
    if not manifest.sparsity:
        return ""
    count = sum(layer.sparse for layer in manifest.sparsity)
    rows = "".join(map(_layer_verdict, manifest.sparsity))
    return (
        f"<h2>2:4, layer by layer: {count} of {len(manifest.sparsity)} run sparse</h2>"
        f'<details{" open" if count else ""}><summary>The layers of the model</summary><div class="wide"><table>'
        f"<tr>{_cells('th', ('layer', 'pattern', 'runs', 'why'))}</tr>{rows}</table></div></details>"
    )


def _layer_verdict(layer: LayerVerdict) -> str:
    pattern = {"sparse": "2:4", "dense": "not 2:4", "ineligible": "cannot be"}.get(layer.state, layer.state)
    cells = _cells("td", (layer.name, pattern, "sparse" if layer.sparse else "dense", layer.why))
    return f'<tr class="{"chosen" if layer.sparse else "lost"}">{cells}</tr>'


def _engine(manifest: Manifest) -> str:
    layers = next((c.layers for c in manifest.candidates if c.chosen), ())
    if not layers:
        return ""
    rows = "".join(map(_engine_layer, layers))
    head = _cells("th", ("layer", "kernel", "precision", "on", "2:4"))
    return (
        f"<h2>The engine: {len(layers)} layers</h2><details><summary>What each runs</summary>"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div></details>'
    )


def _engine_layer(layer: LayerRecord) -> str:
    cells = (layer.name, layer.kernel, layer.precision, layer.device, "2:4" if layer.sparse else "")
    return f'<tr class="{"chosen" if layer.sparse else "lost"}">{_cells("td", cells)}</tr>'


def _facts(manifest: Manifest) -> str:
    spec = manifest.detector
    memory = {"host": "of this process", "gpu": "of the GPU", "shared": "that CPU and GPU share"}
    limit = "unknown" if manifest.budget_mb is None else f"{manifest.budget_mb:,.0f} MB"
    loaded = max((c.loaded_mb for c in manifest.candidates if c.loaded_mb), default=None)
    alone = f"; {loaded:,.0f} MB go to the library, and CUDA, before anything is built" if loaded else ""
    facts = {
        "Fallback": f"{manifest.fallback} ({manifest.fallback_precision})",
        "Memory for building": f"{limit} {memory.get(manifest.budget_of, '')}{alone}",
        "Clocks": manifest.clocks or "unknown",
        "Backend": f"{manifest.backend} ({', '.join(f'{k} {v}' for k, v in manifest.identity.items())})",
        "Built": f"{manifest.created} by edgesparse {manifest.edgesparse}",
        "Machine": ", ".join(f"{k} {_gigabytes(v) if k == 'memory' else v}" for k, v in manifest.machine.items()),
        "Inputs": ", ".join(f"{t.name} {t.shape} {t.dtype}" for t in manifest.inputs),
        **({"Batch": "{0} to {2}, timed at {1}".format(*manifest.batch)} if manifest.batch else {}),
        "Outputs": ", ".join(f"{t.name} {t.shape} {t.dtype}" for t in manifest.outputs),
        "Head": f"{spec.head}, {len(spec.classes)} classes",
        "Pre-processing": ", ".join(f"{k} {v}" for k, v in spec.input.model_dump().items()),
        "Source model": manifest.source_sha256,
        "Build": manifest.build_id,
    }
    return f"<h2>What it is</h2>{_pairs(facts.items())}<h2>Files</h2>{_pairs(sorted(manifest.files.items()))}"


def _pairs(items: Iterable[Sequence[str]]) -> str:
    rows = "".join(f"<tr><th>{_text(k)}</th><td><code>{_text(v)}</code></td></tr>" for k, v in items)
    return f'<div class="wide"><table>{rows}</table></div>'


def _cells(tag: str, values: Iterable[str], numbers: Iterable[int] = ()) -> str:
    def cells() -> Iterator[str]:
        right = set(numbers)
        for i, value in enumerate(values):
            yield f"<{tag}{' class=n' if i in right else ''}>{_text(value)}</{tag}>"

    return "".join(cells())


def _gigabytes(size: str) -> str:
    return f"{int(size) / 1e9:.1f} GB" if size.isdigit() else size


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _text(value: object) -> str:
    return html.escape(str(value))
