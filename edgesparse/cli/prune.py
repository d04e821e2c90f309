"""`prune`: make a model 2:4, or remove channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import complain, emit_json, progress, table

if TYPE_CHECKING:
    from edgesparse.compress.narrow_report import NarrowReport
    from edgesparse.sparsity.prune import PruneReport
    from edgesparse.sparsity.reconstruct_report import ReconstructReport


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET, metavar="MODEL.onnx|RECIPE.yaml")
@options.output("Write this file.")
@click.option(
    "--method",
    type=click.Choice(["magnitude", "reconstruct", "channels"]),
    default="magnitude",
    show_default=True,
    help="Choose weights with this method; see above.",
)
@click.option("--layers", multiple=True, metavar="NAME", help="Prune only this layer, or auto; repeatable.")
@click.option("--permute", is_flag=True, help="magnitude: reorder channels to keep more.")
@options.calibration_images(required=False, count=256)
@click.option(
    "--share",
    type=options.Number(0, 1, min_open=True),
    metavar="F",
    help="Prune this share of the MACs, or of the time.",
)
@click.option("--max-drop", type=options.NOT_NEGATIVE, metavar="POINTS", help="Lose at most this many points of mAP.")
@options.device
@options.steps("all weights")
@options.labels()
@options.annotated_images("--annotated-images")
@options.names
@click.option("--state", type=options.PATH, metavar="FOLDER", help="Save progress in this folder, to resume it.")
@options.html
@options.force
@options.as_json
def prune(target: Path, output: Path, layers: tuple[str, ...], as_json: bool, **fields: Any) -> None:
    """Make a model 2:4, or remove channels from it.

    magnitude keeps the largest weights; it takes seconds, but the model needs training afterwards. reconstruct needs
    --images but no training: it refits each layer to its dense output. With --layers auto, implied by --share,
    --max-drop and --device, it prunes the layers that change the outputs least for the time they save: as many as cost
    one point of mAP on --annotations, unless --share or --max-drop is set. With --steps it then trains all weights
    together, their layers still 2:4, until images held out no longer improve; a few hundred steps keep much more.

    channels makes layers narrower, or removes them, where INT8 is predicted to be faster on --device, by default
    orin-nano-8gb: as far as costs one point, or --max-drop, or until --share of the time is saved. The other weights
    are refitted on --images.
    """
    from edgesparse.compress.narrow_report import NarrowReport
    from edgesparse.sparsity.prune import PruneReport
    from edgesparse.tasks.prune import PruneOptions, prune_file

    chosen = "auto" if layers == ("auto",) else (layers or None)
    with progress() as advance:
        result = prune_file(target, output, PruneOptions(layers=chosen, **fields), advance)
    if isinstance(result.report, PruneReport) and result.report.warning:
        complain(f"warning: {result.report.warning}")
    if as_json:
        emit_json(result.as_dict())
        return
    if isinstance(result.report, PruneReport):
        _show_magnitude(target, result.report)
    elif isinstance(result.report, NarrowReport):
        _show_channels(target, result.report)
    else:
        _show_reconstruct(target, result.report)
    if result.confidence is not None:
        click.echo(f"{result.confidence}; per class: --json or --html")
    click.echo(f"wrote {output}; next: edgesparse evaluate {output} --annotations ...")


def _show_magnitude(model: Path, report: PruneReport) -> None:
    if not report.changed:
        click.echo(f"all {len(report.layers)} layers are already 2:4: nothing changed")
        return
    table(
        f"{model.name}: {len(report.changed)} of {len(report.layers)} layers pruned",
        ("layer", "zeroed", "magnitude kept %"),
        ((layer.name, layer.zeroed, 100 * layer.kept) for layer in report.layers),
        numbers=2,
    )
    if report.permutation:
        kept = f"{100 * report.permutation.before:.1f} to {100 * report.permutation.after:.1f} %"
        click.echo(f"{report.permutation.moved} channels reordered: magnitude kept rose from {kept}")


def _show_reconstruct(model: Path, report: ReconstructReport) -> None:
    table(
        f"{model.name}: {100 * report.share:.0f} % of the eligible multiply-accumulates are 2:4",
        ("layer", "state", "reason", "MACs M", "output lost %"),
        ((r.name, r.state, r.why, r.macs / 1e6, "-" if r.error is None else 100 * r.error) for r in report.layers),
        numbers=2,
    )
    if report.training is not None:
        click.echo(str(report.training))
    _show_drop(report)


def _show_channels(model: Path, report: NarrowReport) -> None:
    table(
        f"{model.name}: layers with fewer channels, INT8 on {report.device}",
        ("layer", "inputs", "outputs", "saves us", "output lost %"),
        (
            (
                layer.name,
                "{} to {}".format(*layer.inputs),
                "{} to {}".format(*layer.outputs),
                1e3 * layer.saved_ms,
                "-" if layer.error is None else 100 * layer.error,
            )
            for layer in report.narrowed
        ),
        numbers=2,
    )
    faster = report.before_ms / report.after_ms
    click.echo(f"{report.before_ms:.2f} ms predicted before, {report.after_ms:.2f} after: {faster:.2f} times as fast")
    _show_drop(report)


def _show_drop(report: ReconstructReport | NarrowReport) -> None:
    if report.drop is not None:
        click.echo(f"mAP {report.dense_score:.1f} before, {report.score:.1f} after: {report.drop:.1f} lost")
