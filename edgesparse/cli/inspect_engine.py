"""`inspect` for a built engine: the kernel of each layer, and which run 2:4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from edgesparse.backends.base import EngineLayer
from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.tasks.writing import check_outputs, write

COLUMNS = ("layer", "kernel", "2:4", "type", "on")


@dataclass(frozen=True)
class EngineInspection:
    """`remarks`: what is known besides the layers, one line each."""

    name: str
    layers: tuple[EngineLayer, ...]
    eligible: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        sparse = sum(layer.sparse for layer in self.layers)
        considered = f"; {len(self.eligible)} were eligible" if self.eligible else ""
        unnamed = "; it was built without kernel names" if all(not layer.kernel for layer in self.layers) else ""
        return f"{sparse} of {len(self.layers)} layers run a 2:4 kernel{considered}{unnamed}"

    def as_dict(self) -> dict[str, Any]:
        layers = [asdict(layer) for layer in self.layers]
        return {"engine": self.name, "layers": layers, "eligible": list(self.eligible), "said": list(self.remarks)}


def inspect_engine(target: Path, html: Path | None, force: bool, as_json: bool) -> None:
    """Show a package's engine, from its manifest, or a plan, by deserializing it. Raises PackageError, BuildError,
    BackendUnavailable.
    """
    check_outputs((html,), force, () if target.is_dir() else (target,))
    with progress() as advance:
        advance("reading", 0, 0)
        inspection = _package(target) if target.is_dir() else _plan(target)
    if html:
        write(html, lambda path: path.write_text(page(inspection)))
        complain(f"wrote {html}")
    if as_json:
        emit_json(inspection.as_dict())
        return
    if inspection.layers:
        table(inspection.name, COLUMNS, map(_row, inspection.layers))
        click.echo(inspection.summary)
    for line in inspection.remarks:
        click.echo(line)


def page(inspection: EngineInspection) -> str:
    """Return a self-contained page."""
    from edgesparse.pages import html as pages

    states = ["sparse" if layer.sparse else "ineligible" for layer in inspection.layers]
    drawn = (pages.Bar(layer.name, state, 1) for layer, state in zip(inspection.layers, states, strict=True))
    rows = (pages.Row(_row(layer), f"l{i}") for i, layer in enumerate(inspection.layers))
    return pages.document(
        f"{inspection.name}: 2:4",
        f"<h1>{pages.text(inspection.name)}</h1>",
        *map(pages.paragraph, (f"{inspection.summary}.", *inspection.remarks)),
        pages.key((("sparse", "runs 2:4"), ("ineligible", "runs dense")), "Kernels"),
        pages.bars("Layers of the engine, in order", drawn),
        pages.heading("Layers") + pages.table(COLUMNS, rows),
    )


def _row(layer: EngineLayer) -> Sequence[str]:
    return layer.name, layer.kernel, "2:4" if layer.sparse else "", layer.precision, layer.device


def _plan(path: Path) -> EngineInspection:
    from edgesparse.backends.tensorrt.driver import TensorRTBackend

    return EngineInspection(path.name, TensorRTBackend().layers(path))


def _package(path: Path) -> EngineInspection:
    from edgesparse.package.store import find_package

    manifest = find_package(path).manifest
    name = f"{manifest.model} {manifest.build_id}"
    chosen = next((candidate for candidate in manifest.candidates if candidate.chosen), None)
    if chosen is None or not chosen.layers:
        return EngineInspection(name, (), remarks=(f"{name}: {manifest.backend} does not report which kernels run",))
    layers = tuple(EngineLayer(**layer.model_dump()) for layer in chosen.layers)
    image = (f"the image is {chosen.image}",) if chosen.image else ()
    return EngineInspection(f"{name} {chosen.name}", layers, chosen.eligible, (*image, *manifest.verdict))
