"""`inspect` of a built engine: the kernel of each layer, and which of them run 2:4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from edgesparse.backends.base import EngineLayer
from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.cli.writing import check_free, write

COLUMNS = ("layer", "kernel", "2:4", "type", "on")


@dataclass(frozen=True)
class Inspected:
    """`said`: what is known beside the layers, in words, a line each."""

    name: str
    layers: tuple[EngineLayer, ...]
    eligible: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        sparse = sum(layer.sparse for layer in self.layers)
        considered = f"; {len(self.eligible)} were eligible" if self.eligible else ""
        unnamed = "; it was built without kernels' names" if all(not layer.kernel for layer in self.layers) else ""
        return f"{sparse} of {len(self.layers)} layers run a 2:4 kernel{considered}{unnamed}"

    def as_dict(self) -> dict[str, Any]:
        layers = [asdict(layer) for layer in self.layers]
        return {"engine": self.name, "layers": layers, "eligible": list(self.eligible), "said": list(self.said)}


def inspect_engine(target: Path, html: Path | None, force: bool, as_json: bool) -> None:
    """Show a package's engine, as its manifest has it, or a plan, which is loaded for it.

    Raises PackageError, BuildError, BackendUnavailable.
    """
    check_free(html, force)
    with progress() as advance:
        advance("reading", 0, 0)
        found = _package(target) if target.is_dir() else _plan(target)
    if html:
        write(html, lambda path: path.write_text(page(found)))
        complain(f"wrote {html}")
    if as_json:
        emit_json(found.as_dict())
        return
    if found.layers:
        table(found.name, COLUMNS, map(_row, found.layers))
        click.echo(found.summary)
    for line in found.said:
        click.echo(line)


def page(found: Inspected) -> str:
    """One self-contained page."""
    from edgesparse.pages import html as pages

    states = ["sparse" if layer.sparse else "ineligible" for layer in found.layers]
    drawn = (pages.Bar(layer.name, state, 1) for layer, state in zip(found.layers, states, strict=True))
    rows = (pages.Row(_row(layer), f"l{i}") for i, layer in enumerate(found.layers))
    return pages.document(
        f"{found.name}: 2:4",
        f"<h1>{pages.text(found.name)}</h1>",
        *map(pages.paragraph, (f"{found.summary}.", *found.said)),
        pages.key((("sparse", "runs 2:4"), ("ineligible", "runs dense")), "Kernels"),
        pages.bars("Layers of the engine, in order", drawn),
        pages.heading("Layers") + pages.table(COLUMNS, rows),
    )


def _row(layer: EngineLayer) -> Sequence[str]:
    return layer.name, layer.kernel, "2:4" if layer.sparse else "", layer.precision, layer.device


def _plan(path: Path) -> Inspected:
    from edgesparse.backends.tensorrt.driver import TensorRTBackend

    return Inspected(path.name, TensorRTBackend().layers(path))


def _package(path: Path) -> Inspected:
    from edgesparse.package.store import find_package

    manifest = find_package(path).manifest
    name = f"{manifest.model} {manifest.build_id}"
    chosen = next((candidate for candidate in manifest.candidates if candidate.chosen), None)
    if chosen is None or not chosen.layers:
        return Inspected(name, (), said=(f"{name}: {manifest.backend} does not tell which kernels run",))
    layers = tuple(EngineLayer(**layer.model_dump()) for layer in chosen.layers)
    return Inspected(f"{name} {chosen.name}", layers, chosen.eligible, manifest.verdict)
