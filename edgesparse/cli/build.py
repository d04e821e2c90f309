"""`recipe` and `build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.errors import ConfigError
from edgesparse.head_table import HEAD_ALIASES, HEADS

if TYPE_CHECKING:
    from edgesparse.config import Recipe
    from edgesparse.package.manifest import Candidate, Manifest

HEAD_CHOICES = ("auto", *HEADS, *HEAD_ALIASES)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write [default: MODEL.yaml].")
@click.option("--head", type=click.Choice(HEAD_CHOICES), default="auto", help="Where the model does not tell.")
@click.option("--size", type=click.IntRange(1), nargs=2, metavar="H W", help="Where the model does not tell.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def recipe(model: Path, output: Path | None, head: str, size: tuple[int, int] | None, force: bool) -> None:
    """Write a commented recipe for MODEL.onnx: '-o -' prints it."""
    from edgesparse.builder.recipe import write_recipe

    output = output or model.with_suffix(".yaml")
    text = write_recipe(model, output, head, size, force)
    if str(output) == "-":
        click.echo(text, nl=False)
    else:
        complain(f"wrote {output}; next: edgesparse build {output}")


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, metavar="CANDIDATE", help="Build only this one, as fp16-2:4; may be repeated.")
@click.option("--memory", metavar="SIZE", help="What building may take, as '2 GB' [default: what is free].")
@click.option("--time-limit", type=float, metavar="SECONDS", help="For the whole; the rest is left out.")
@click.option("--require-sparse", is_flag=True, help="Refuse an engine that gains nothing by 2:4.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep what candidates are built from.")
@click.option(
    "--store", type=click.Path(path_type=Path), default="engines", show_default=True, help="Where packages lie."
)
@click.option("--force", is_flag=True, help="Build even when these inputs have been built.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def build(target: Path, store: Path, force: bool, as_json: bool, keep: Path | None, **said: Any) -> None:
    """Build a package from RECIPE.yaml or MODEL.onnx: every candidate built, timed and scored, the fastest kept.

    Each candidate's trtexec line is printed too; it works in the folder that --keep fills.
    """
    from edgesparse.builder.build import build as build_package
    from edgesparse.builder.targets import recipe_of

    if keep is not None and keep.exists() and not (keep.is_dir() and (force or not any(keep.iterdir()))):
        raise ConfigError(f"--keep {keep} is there already: name another, or an empty folder")
    with progress() as advance:
        recipe = _with_options(recipe_of(target), **said)
        built = build_package(recipe, store, force=force, progress=advance, keep=keep)
    if keep is not None and built.reused:
        complain(f"nothing was built, so {keep} is not filled: pass --force to build again")
    manifest = built.package.manifest
    if as_json:
        emit_json({"folder": str(built.package.folder), "reused": built.reused, **manifest.model_dump(mode="json")})
        return
    _show(manifest)
    click.echo(f"{'found' if built.reused else 'wrote'} {built.package.folder} (report.html says more)")
    click.echo(f"next: edgesparse run {built.package.folder.parent} --source 0")


def _with_options(
    recipe: Recipe, only: tuple[str, ...], memory: str | None, time_limit: float | None, require_sparse: bool
) -> Recipe:
    """The recipe with what the command line says."""
    from edgesparse.config import parse

    said = recipe.model_dump(mode="json")
    given = {"candidates": list(only) or None, "memory": memory, "time_limit": time_limit}
    said["build"].update({key: value for key, value in given.items() if value is not None})
    said["accept"]["require_sparse"] |= require_sparse
    changed = parse(said, "command line")
    return recipe.model_copy(update={"build": changed.build, "accept": changed.accept})


def _show(manifest: Manifest) -> None:
    columns = ("candidate", "", "why", "build s", "MB", "peak MB", "2:4 layers", "ms", "mAP")
    table(f"{manifest.model}  {manifest.build_id}", columns, map(_row, manifest.candidates), numbers=6)
    for line in manifest.verdict:
        click.echo(line)
    for candidate in manifest.candidates:
        if candidate.command:
            click.echo(f"{candidate.name}: {candidate.command}")
    spec = manifest.detector
    click.echo(f"head {spec.head}, {len(spec.classes)} classes, input {spec.input.size[0]}x{spec.input.size[1]}")


def _row(c: Candidate) -> tuple[object, ...]:
    ran = c.latency_ms is not None
    return (
        c.name,
        {"chosen": "kept"}.get(c.outcome, c.outcome),
        c.reason,
        c.build_seconds if ran else "-",
        c.file_mb if ran else "-",
        f"{c.host_mb if c.device_mb is None else c.device_mb:.0f}",
        f"{len(c.picked)} of {max(len(c.eligible), len(c.picked))}" if ran and c.sparse else "-",
        f"{c.latency_ms:.3f}" if c.latency_ms is not None else "-",
        c.score.map if c.score else "-",
    )
