"""`inspect`: a model's 2:4 layers and what 2:4 could gain, or a built engine's kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgesparse.cli import inspect_engine, options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import complain, emit_json, progress, table

if TYPE_CHECKING:
    from edgesparse.predict.boards import Board
    from edgesparse.predict.roofline import Prediction
    from edgesparse.sparsity.inspect import InspectedLayer, Inspection

PLANS = (".engine", ".plan", ".trt")
SHOWN_GAINS = 10
MOST = 1 << 20
"""Longest input dimension."""
COLUMNS = ("layer", "op", "weights", "state", "notes", "MACs M", "%", "KB", "zeros %", "violations")


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET, metavar="MODEL.onnx|RECIPE.yaml|PACKAGE|ENGINE")
@options.device
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1x3x640x640", help="Set an input's open shape.")
@options.html
@options.force
@options.as_json
def inspect(
    target: Path, device: str | None, shapes: tuple[str, ...], html: Path | None, force: bool, as_json: bool
) -> None:
    """Show 2:4 per layer of a model, or the kernels of an engine.

    For a model: which layers are 2:4, which could be, why the others cannot, and with --device what 2:4 could gain
    there. For a package or a TensorRT plan (MODEL.engine): the kernel of each layer, and which run 2:4. Opening a plan
    runs its code: only open plans that were built on this device. A package is only read.
    """
    if target.is_dir() or target.suffix in PLANS:
        if device or shapes:
            raise click.UsageError("--device and --shape only apply to a model: leave them out")
        inspect_engine.inspect_engine(target, html, force, as_json)
        return
    from edgesparse.tasks.inspect import inspect_file

    inputs = dict(_shape(text) for text in shapes)
    if len(inputs) < len(shapes):
        raise click.UsageError("--shape: found two shapes for an input, needed one")
    with progress() as advance:
        result = inspect_file(target, device, inputs, html, force, advance)
    for note in result.report.notes:
        complain(note)
    if html:
        complain(f"wrote {html}")
    if as_json:
        emit_json(result.as_dict())
        return
    _show_layers(target.name, result.report)
    if result.board:
        _show_prediction(result.board, result.predictions)


def _show_layers(name: str, report: Inspection) -> None:
    notes: Counter[str] = Counter()
    rows = [_row(layer, report.macs, _marks(layer, notes)) for layer in report.layers]
    table(name, COLUMNS, rows, numbers=5)
    for i, (text, count) in enumerate(notes.items(), 1):
        click.echo(f"[{i}] {text} ({count} layer{'s' * (count > 1)})")
    shares = ", ".join(
        f"{100 * report.share(state):.0f} % {words}"
        for state, words in (("sparse", "are 2:4"), ("dense", "could be"), ("ineligible", "cannot"))
    )
    macs = "an open input shape (--shape)" if report.macs is None else f"{report.macs / 1e6:.0f} M multiply-accumulates"
    click.echo(f"{len(report.layers)} layers, {macs}: {shares}")


def _row(layer: InspectedLayer, total: int | None, notes: str) -> tuple[object, ...]:
    shape = "x".join(map(str, layer.shape)) if layer.shape else "-"
    held = f"{shape} {layer.dtype}" if layer.dtype else "-"
    macs = "-" if layer.macs is None else f"{layer.macs / 1e6:.1f}"
    share = f"{100 * layer.macs / total:.1f}" if total and layer.macs else "-"
    missed = f"{layer.violations}/{layer.groups}" if layer.groups else "-"
    size, zeros = f"{layer.bytes / 1e3:.1f}", f"{100 * layer.zero_share:.0f}"
    return layer.name, layer.op, held, layer.state, notes, macs, share, size, zeros, missed


def _marks(layer: InspectedLayer, notes: Counter[str]) -> str:
    """Return the layer's reason and doubts as numbers into `notes`; equal notes share a number."""
    remarks = [text for text in (layer.reason, *layer.doubts) if text]
    texts = [text.split(": ", 1)[-1] if text[0].isdigit() else text for text in remarks]
    notes.update(texts)
    return " ".join(str(list(notes).index(text) + 1) for text in texts)


def _show_prediction(board: Board, predictions: Mapping[str, Prediction]) -> None:
    from edgesparse.predict.roofline import gains, verdict

    base = predictions["FP16"].ms
    engines = [(p.name, p.ms, p.bound, f"{base / p.ms:.2f}x") for p in predictions.values()]
    click.echo()
    table(f"predicted on {board}", ("engine", "ms", "bound by", "to FP16"), engines)
    ranked = gains(predictions)
    rows = [(g.name, g.bound, *(1e3 * ms for ms in (g.fp16_ms, g.int8_ms, g.relu_ms))) for g in ranked[:SHOWN_GAINS]]
    if rows:
        click.echo()
        columns = ("layer", "bound by", "FP16 us", "INT8 us", "INT8 with ReLU us")
        table(f"layers where 2:4 saves most, {len(rows)} of {len(ranked)}", columns, rows, numbers=3)
    click.echo()
    for line in verdict(predictions):
        click.echo(line)
    click.echo("Times for 2:4 are lower bounds; docs/guide/predict.md gives the error")


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not all(size.isdecimal() and 0 < int(size) <= MOST for size in sizes.split("x")):
        raise click.UsageError(f"--shape {text}: needed NAME=SIZES, e.g. images=1x3x640x640")
    return name, tuple(int(size) for size in sizes.split("x"))
