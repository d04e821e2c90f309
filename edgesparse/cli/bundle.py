"""`bundle`: one signed file with everything that devices need."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import emit_json, progress
from edgesparse.tasks.writing import check_outputs
from edgesparse.values import version as version_of


def _version(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Check the version before what the self-test expects is computed."""
    try:
        return None if value is None else version_of(value)
    except ValueError as error:
        raise click.BadParameter(f"found '{value}', needed {error}") from None


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET, metavar="RECIPE.yaml|MODEL.onnx")
@options.output("Write this file, e.g. parts.esb.")
@click.option(
    "--key", type=options.PATH, required=True, metavar="FILE", help="Sign with this key ('edgesparse keys new')."
)
@click.option("--version", metavar="N.N", callback=_version, help="Set the version [default: newest file's time].")
@options.test_images
@options.force
@options.as_json
def bundle(
    target: Path, output: Path, key: Path, version: str | None, images: Path | None, force: bool, as_json: bool
) -> None:
    """Write one signed file from which devices build their engine."""
    from edgesparse.fleet import contents, keys

    check_outputs((output,), force, (target, key))
    private = keys.read_private(key)
    with progress() as advance:
        description = contents.make(target, output, private, version=version, images=images, progress=advance)
    if as_json:
        emit_json({"file": str(output), **description.model_dump(mode="json")})
        return
    what = f"{description.name} {description.version}, {len(description.files)} files, {description.size / 1e6:.1f} MB"
    click.echo(f"wrote {output}: {what}")
    click.echo(f"signed with {private.public}; next, on a device: edgesparse deploy {output}")
