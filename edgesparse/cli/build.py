"""`recipe` and `build`."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.config import HEAD_ALIASES, HeadName

HEAD_CHOICES = (*HeadName.__args__, *HEAD_ALIASES)  # type: ignore[attr-defined]


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write [default: MODEL.yaml].")
@click.option("--head", type=click.Choice(HEAD_CHOICES), default="auto", help="Where the model does not tell.")
@click.option("--size", type=click.IntRange(1), nargs=2, metavar="H W", help="Where the model does not tell.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def recipe(model: Path, output: Path | None, head: str, size: tuple[int, int] | None, force: bool) -> None:
    """Write a commented recipe for MODEL.onnx: '-o -' prints it."""
    from edgesparse.build.recipe import write_recipe

    output = output or model.with_suffix(".yaml")
    text = write_recipe(model, output, head, size, force)
    if str(output) == "-":
        click.echo(text, nl=False)
    else:
        complain(f"wrote {output}; next: edgesparse build {output}")


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--store", type=click.Path(path_type=Path), default="engines", show_default=True, help="Where packages lie."
)
@click.option("--force", is_flag=True, help="Build even when these inputs have been built.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def build(target: Path, store: Path, force: bool, as_json: bool) -> None:
    """Build a package from RECIPE.yaml or MODEL.onnx: prepared, timed, scored, accepted or refused."""
    from edgesparse.build.ready import recipe_of
    from edgesparse.build.select import build as build_package

    with progress() as advance:
        built = build_package(recipe_of(target), store, force=force, progress=advance)
    manifest = built.package.manifest
    if as_json:
        emit_json({"folder": str(built.package.folder), "reused": built.reused, **manifest.model_dump(mode="json")})
        return
    rows = [
        (
            c.name,
            "kept" if c.chosen else "lost",
            c.reason,
            c.build_seconds,
            c.latency_ms,
            c.score.map if c.score else "-",
        )
        for c in manifest.candidates
    ]
    table(
        f"{manifest.model}  {manifest.build_id}",
        ("candidate", "", "why", "build s", "engine ms", "mAP"),
        rows,
        numbers=3,
    )
    spec = manifest.detector
    click.echo(f"head {spec.head}, {len(spec.classes)} classes, input {spec.input.size[0]}x{spec.input.size[1]}")
    click.echo(f"{'found' if built.reused else 'wrote'} {built.package.folder} (report.html says more)")
    click.echo(f"next: edgesparse run {built.package.folder.parent} --source 0")
