"""The page beside a package: what was built, what was tried, why it was chosen."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from edgesparse.package.manifest import Candidate, Manifest

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #dde3ea}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr.chosen{background:#e8f5ec;font-weight:600}
code{background:#f1f4f8;padding:.1rem .3rem;border-radius:3px;overflow-wrap:anywhere}
"""


def page(manifest: Manifest) -> str:
    """One self-contained HTML page."""
    spec = manifest.detector
    facts = {
        "Model": manifest.model,
        "Backend": f"{manifest.backend} ({', '.join(f'{k} {v}' for k, v in manifest.identity.items())})",
        "Built": f"{manifest.created} by edgesparse {manifest.edgesparse}",
        "Machine": ", ".join(f"{k} {v}" for k, v in manifest.machine.items()),
        "Inputs": ", ".join(f"{t.name} {t.shape} {t.dtype}" for t in manifest.inputs),
        "Outputs": ", ".join(f"{t.name} {t.shape} {t.dtype}" for t in manifest.outputs),
        "Head": f"{spec.head}, {len(spec.classes)} classes",
        "Pre-processing": ", ".join(f"{k} {v}" for k, v in spec.input.model_dump().items()),
        "Source model": manifest.source_sha256,
        "Build": manifest.build_id,
    }
    header = ("candidate", "precision", "build s", "latency ms", "mAP", "mAP50", "why")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(manifest.model)}</title>"
        f"<style>{_STYLE}</style><h1>{_text(manifest.model)}</h1>"
        f"<h2>Candidates</h2><table><tr>{_cells('th', header)}</tr>"
        f"{''.join(map(_candidate, manifest.candidates))}</table>"
        f"<h2>What it is</h2><table>{''.join(_row(item) for item in facts.items())}</table>"
        f"<h2>Files</h2><table>{''.join(_row(item) for item in sorted(manifest.files.items()))}</table></html>\n"
    )


def _candidate(candidate: Candidate) -> str:
    score = candidate.score
    points = (f"{score.map:.1f}", f"{score.map50:.1f}") if score else ("not scored", "")
    cells = (
        candidate.name,
        candidate.precision,
        f"{candidate.build_seconds:.1f}",
        f"{candidate.latency_ms:.2f}",
        *points,
        candidate.reason,
    )
    return f"<tr class={'chosen' if candidate.chosen else 'lost'}>{_cells('td', cells)}</tr>"


def _row(item: Sequence[str]) -> str:
    return f"<tr><th>{_text(item[0])}</th><td><code>{_text(item[1])}</code></td></tr>"


def _cells(tag: str, values: Iterable[str]) -> str:
    numbers = range(2, 6)
    return "".join(f"<{tag}{' class=n' if i in numbers else ''}>{_text(v)}</{tag}>" for i, v in enumerate(values))


def _text(value: object) -> str:
    return html.escape(str(value))
