"""`build`: a package from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.errors import ConfigError

if TYPE_CHECKING:
    from edgesparse.builder.build import Reuse
    from edgesparse.config import Recipe
    from edgesparse.package.manifest import Candidate, Manifest


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET, metavar="RECIPE.yaml|MODEL.onnx")
@click.option("--only", multiple=True, metavar="CANDIDATE", help="Build only this, e.g. fp16-2:4; repeatable.")
@click.option("--quick", is_flag=True, help="Build only the likely fastest candidates.")
@click.option("--memory", metavar="SIZE", help="Use at most this much memory, e.g. '2 GB'.")
@click.option("--time-limit", type=options.POSITIVE, metavar="SECONDS", help="Skip candidates not built by then.")
@click.option("--require-sparse", is_flag=True, help="Refuse an engine that 2:4 does not speed up.")
@click.option("--keep", type=options.PATH, metavar="FOLDER", help="Keep the files that engines are built from.")
@options.names
@options.store
@click.option("--resume", is_flag=True, help="Continue an interrupted build.")
@click.option("--force", is_flag=True, help="Build again, even if nothing has changed.")
@options.as_json
def build(target: Path, names: str | None, store: Path, as_json: bool, keep: Path | None, **overrides: Any) -> None:
    """Build, time and score every candidate, and keep the fastest.

    Also prints each candidate's trtexec command, which works in the folder written by --keep.
    """
    from edgesparse.builder.build import build as build_package
    from edgesparse.builder.targets import recipe_of

    force, resume = (bool(overrides.pop(name)) for name in ("force", "resume"))
    if force and resume:
        raise click.UsageError("--force rebuilds everything, --resume only what is missing: choose one")
    if keep is not None and keep.exists() and not (keep.is_dir() and (force or not any(keep.iterdir()))):
        raise ConfigError(f"--keep {keep} already exists: name another, or an empty folder")
    recipe = _with_overrides(recipe_of(target, names), **overrides)
    with progress() as advance:
        result = build_package(recipe, store, reuse=_reuse(force, resume), progress=advance, keep=keep)
    if keep is not None and result.reused:
        complain(f"nothing was built, so {keep} is not filled: pass --force to build again")
    manifest = result.package.manifest
    if as_json:
        emit_json({"folder": str(result.package.folder), "reused": result.reused, **manifest.model_dump(mode="json")})
        return
    _show(manifest)
    click.echo(f"{'reused' if result.reused else 'wrote'} {result.package.folder} (details: report.html)")
    click.echo(f"next: edgesparse run {result.package.folder.parent} --source 0")


def _reuse(force: bool, resume: bool) -> Reuse:
    return "nothing" if force else "candidates" if resume else "package"


def _with_overrides(
    recipe: Recipe,
    only: tuple[str, ...],
    quick: bool,
    memory: str | None,
    time_limit: float | None,
    require_sparse: bool,
) -> Recipe:
    """Return the recipe with the values from the command line. Raises ConfigError."""
    from edgesparse.config import parse

    if only and quick:
        raise click.UsageError("--only and --quick both say which candidates to build: choose one")
    settings = recipe.model_dump(mode="json")
    candidates = "quick" if quick else list(only) or None
    overrides = {"candidates": candidates, "memory": memory, "time_limit": time_limit}
    settings["build"].update({key: value for key, value in overrides.items() if value is not None})
    settings["accept"]["require_sparse"] |= require_sparse
    changed = parse(settings, "command line")
    return recipe.model_copy(update={"build": changed.build, "accept": changed.accept})


def _show(manifest: Manifest) -> None:
    columns = ("candidate", "", "reason", "build s", "MB", "peak MB", "2:4 layers", "ms", "mAP")
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
