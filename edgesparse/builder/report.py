"""The page of a package: what was built, which candidates were tried, what runs sparse, and why one was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgesparse.package.manifest import Candidate, LayerRecord, LayerVerdict, Manifest
from edgesparse.pages.html import (
    Html,
    Row,
    bullets,
    details,
    document,
    heading,
    number,
    pairs,
    paragraph,
    table,
    text,
    tiles,
)
from edgesparse.pages.shifts import shift_tables

_STYLE = """
ul{margin-bottom:1rem}tr.chosen td{background:var(--goodground)}tr.chosen td:first-child{font-weight:700}
tr.refused td:nth-child(2),tr.failed td:nth-child(2){color:var(--bad)}
tr.chosen td:nth-child(2){color:var(--good);font-weight:700}
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

_PHASES = ("prepare", "build", "test")
"""What a candidate costs: its ONNX file and INT8's calibration; the engine; loading, timing and scoring it."""
_WHOLE = {
    "model": "Reading and rewriting the model",
    "reference": "Scoring the reference",
    "candidates": "All candidates",
    "timing": "Timing them interleaved",
}


def page(manifest: Manifest) -> str:
    """Return a self-contained HTML page."""
    parts = (_head, _ladder, _candidates, _cost, _sparsity, _engine, _facts)
    return document(manifest.model, *(part(manifest) for part in parts), style=_STYLE)


def _head(manifest: Manifest) -> str:
    chosen = next((c for c in manifest.candidates if c.chosen), None)
    numbers: list[tuple[str, str]] = []
    if chosen is not None:
        numbers = [("candidate", chosen.name), ("ms, the engine alone", number(chosen.latency_ms, 3, ""))]
        numbers += [("mAP 50-95", f"{chosen.score.map:.1f}")] if chosen.score else []
        numbers += [("MB on disk", number(chosen.file_mb, 1, ""))]
        numbers += [("layers run 2:4", str(len(chosen.picked)))] if chosen.sparse else []
    lines = [f"{c.name}: {c.reason}" for c in manifest.candidates if c.chosen] + list(manifest.verdict)
    machine = manifest.machine
    where = " ".join(machine.get(k, "") for k in ("model", "gpu")).strip() or machine.get("cpu", "")
    about = f"{manifest.backend}, {where}, {manifest.created}, {manifest.build_id}"
    return f"<h1>{text(manifest.model)}</h1>{paragraph(about, 'soft')}{tiles(numbers)}{bullets(lines)}"


def _ladder(manifest: Manifest) -> str:
    """Render the fastest candidate of each precision, dense and 2:4, as bars."""
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
            largest = max((value(other) or 0 for _, other in steps), default=0) or 1
            cells.append(_bar(value(step), largest, f"{digits}", unit, step))
    return heading("Precision and 2:4, the fastest of each") + f'<div class="ladder">{"".join(cells)}</div>'


def _bar(value: float | None, largest: float, digits: str, unit: str, step: Candidate) -> str:
    if value is None:
        return '<div class="bar soft">not scored</div>'
    return (
        f'<div class="bar{" s" if step.sparse else ""}" title="{text(step.name)}">'
        f'<i style="width:{65 * value / largest:.1f}%"></i><span>{value:.{digits}f} <em>{unit}</em></span></div>'
    )


def _candidates(manifest: Manifest) -> str:
    columns = ("candidate", "", "ms", "± ms", "mAP", "mAP50", "2:4 layers", "file MB", "host MB", "GPU MB")
    rows = table((*columns, "why"), map(_candidate, manifest.candidates), range(2, 10))
    commands = "".join(
        paragraph(c.name) + f"<p><code>{text(c.command)}</code></p>" for c in manifest.candidates if c.command
    )
    shifts = "".join(paragraph(c.name) + shift_tables(c.shift) for c in manifest.candidates if c.shift)
    warnings = "".join(paragraph(f"{c.name}: {'; '.join(c.warnings)}") for c in manifest.candidates if c.warnings)
    more = details("Confidences against FP32", shifts) if shifts else ""
    more += (details("The same with trtexec", commands) if commands else "") + (
        details("Warnings of the builder", warnings) if warnings else ""
    )
    return heading("Candidates") + rows + more


def _candidate(c: Candidate) -> Row:
    score = (f"{c.score.map:.1f}", f"{c.score.map50:.1f}") if c.score else ("", "")
    picked = f"{len(c.picked)} of {max(len(c.eligible), len(c.picked))}" if c.sparse and c.latency_ms else ""
    numbers = (
        number(c.latency_ms, 3, ""),
        number(c.spread_ms if c.latency_ms else None, 4, ""),
        *score,
        picked,
        number(c.file_mb or None, 1, ""),
        number(c.host_mb or None, 0, ""),
        number(c.device_mb, 0, ""),
    )
    reason = "; ".join((c.reason, *(["memory limited: rung " + str(c.rung)] if c.rung else []), *c.degraded[:2]))
    return Row((c.name, c.outcome, *numbers, reason), kind=c.outcome)


def _cost(manifest: Manifest) -> str:
    """Render the seconds of each candidate by phase, then those of the whole build."""
    rows = [_seconds(c.name, [c.seconds.get(phase) for phase in _PHASES]) for c in manifest.candidates if c.seconds]
    if not rows:
        return ""
    whole = {words: f"{manifest.seconds[phase]:.1f} s" for phase, words in _WHOLE.items() if phase in manifest.seconds}
    parts = table(("candidate", *_PHASES, "all"), rows, range(1, 5)) + pairs(whole.items())
    total = sum(manifest.seconds.values())
    return heading(f"What the build cost: {total:.0f} s") + details("Seconds per candidate and phase", parts)


def _seconds(name: str, seconds: Sequence[float | None]) -> Row:
    known = [each for each in seconds if each is not None]
    return Row((name, *(number(each, 1, "") for each in seconds), number(sum(known), 1)), kind="lost")


def _sparsity(manifest: Manifest) -> str:
    if not manifest.sparsity:
        return ""
    count = sum(layer.sparse for layer in manifest.sparsity)
    rows = table(("layer", "pattern", "runs", "why"), map(_layer_verdict, manifest.sparsity))
    title = heading(f"2:4 per layer: {count} of {len(manifest.sparsity)} run sparse")
    return title + details("The layers of the model", rows, opened=bool(count))


def _layer_verdict(layer: LayerVerdict) -> Row:
    pattern = {"sparse": "2:4", "dense": "not 2:4", "ineligible": "cannot be"}.get(layer.state, layer.state)
    cells = (layer.name, pattern, "sparse" if layer.sparse else "dense", layer.why)
    return Row(cells, kind="chosen" if layer.sparse else "lost")


def _engine(manifest: Manifest) -> str:
    layers = next((c.layers for c in manifest.candidates if c.chosen), ())
    if not layers:
        return ""
    rows = table(("layer", "kernel", "precision", "on", "2:4"), map(_engine_layer, layers))
    return heading(f"The engine: {len(layers)} layers") + details("The kernel of each", rows)


def _engine_layer(layer: LayerRecord) -> Row:
    cells = (layer.name, layer.kernel, layer.precision, layer.device, "2:4" if layer.sparse else "")
    return Row(cells, kind="chosen" if layer.sparse else "lost")


def _facts(manifest: Manifest) -> Html:
    spec = manifest.detector
    memory = {"host": "of this process", "gpu": "of the GPU", "shared": "shared by CPU and GPU"}
    limit = "unknown" if manifest.budget_mb is None else f"{manifest.budget_mb:,.0f} MB"
    loaded = max((c.loaded_mb for c in manifest.candidates if c.loaded_mb), default=None)
    alone = f"; the library and CUDA use {loaded:,.0f} MB before anything is built" if loaded else ""
    facts = {
        "Fallback": f"{manifest.fallback} ({manifest.fallback_precision})",
        "Memory for building": f"{limit} {memory.get(manifest.budget_of, '')}{alone}",
        "Clocks": manifest.clocks or "unknown",
        "Backend": f"{manifest.backend} ({', '.join(f'{k} {v}' for k, v in manifest.identity.items())})",
        "Built": f"{manifest.created} by edgesparse {manifest.edgesparse}",
        "Machine": ", ".join(f"{k} {_gigabytes(v) if k == 'memory' else v}" for k, v in manifest.machine.items()),
        "Inputs": ", ".join(f"{t.name} {t.shape} {t.dtype}" for t in manifest.inputs),
        **({"Image": manifest.image} if manifest.image else {}),
        **({"Batch": "{0} to {2}, timed at {1}".format(*manifest.batch)} if manifest.batch else {}),
        "Outputs": ", ".join(f"{t.name} {t.shape} {t.dtype}" for t in manifest.outputs),
        "Head": f"{spec.head}, {len(spec.classes)} classes",
        "Pre-processing": ", ".join(f"{k} {v}" for k, v in spec.input.model_dump().items()),
        "Source model": manifest.source_sha256,
        "Build": manifest.build_id,
    }
    return Html(heading("Details") + pairs(facts.items()) + heading("Files") + pairs(sorted(manifest.files.items())))


def _gigabytes(size: str) -> str:
    return f"{int(size) / 1e9:.1f} GB" if size.isdigit() else size
