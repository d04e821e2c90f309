"""`export`: what others serve from."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli.show import emit_json, progress

PATH = click.Path(path_type=Path)


@click.group()
def export() -> None:
    """What other servers run: Triton's model repository."""


@export.command()
@click.argument("target", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The repository's folder.")
@click.option("--store", type=PATH, default="engines", show_default=True)
@click.option("--force", is_flag=True, help="Replace the model if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def triton(target: Path, output: Path, store: Path, force: bool, as_json: bool) -> None:
    """Write a model repository for Triton from a package, RECIPE.yaml or MODEL.onnx (built on first use)."""
    from edgesparse.builder.targets import ready
    from edgesparse.fleet import triton as repository

    with progress() as advance:
        package = ready(target, store, progress=advance)
    model = repository.export(package, output, force)
    if as_json:
        emit_json({"model": str(model), "package": str(package.folder), "backend": package.manifest.backend})
        return
    click.echo(f"wrote {model} (detector.json says what a client does before and after)")
    click.echo(f"next: tritonserver --model-repository={output.absolute()}")
