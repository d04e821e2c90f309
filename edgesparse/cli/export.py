"""`export`: packages for other servers."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Subcommands
from edgesparse.cli.show import emit_json, progress
from edgesparse.disk import refuse_file


@click.group(cls=Subcommands)
def export() -> None:
    """Export a package for other servers: Triton."""


@export.command()
@click.argument("target", type=options.TARGET)
@options.output("Write the repository to this folder.")
@options.store
@click.option("--force", is_flag=True, help="Replace the model if it exists.")
@options.as_json
def triton(target: Path, output: Path, store: Path, force: bool, as_json: bool) -> None:
    """Write a model repository for Triton Inference Server.

    TARGET is a package, RECIPE.yaml or MODEL.onnx; the last two are built on first use.
    """
    from edgesparse.builder.targets import ready
    from edgesparse.fleet import triton as repository

    refuse_file(output)
    with progress() as advance:
        package = ready(target, store, progress=advance)
    model = repository.export(package, output, force)
    if as_json:
        emit_json({"model": str(model), "package": str(package.folder), "backend": package.manifest.backend})
        return
    click.echo(f"wrote {model} (detector.json: pre- and postprocessing for clients)")
    click.echo(f"next: tritonserver --model-repository={output.absolute()}")
