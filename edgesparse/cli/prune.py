"""`prune`: make a model 2:4."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgesparse.cli.score import annotation_file
from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.cli.writing import check_free, write
from edgesparse.progress import Progress

if TYPE_CHECKING:
    from edgesparse.config import DetectorSpec
    from edgesparse.sparsity.prune import PruneReport
    from edgesparse.sparsity.reconstruction import ReconstructReport

Done = tuple[dict[str, Any], Callable[[], None]]
"""What was done, for JSON, and what prints it for people."""
PATH = click.Path(path_type=Path)
RECONSTRUCTS = ("images", "data", "share", "max_drop", "device", "state", "html")


@click.command()
@click.argument("target", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="File to write.")
@click.option("--method", type=click.Choice(["magnitude", "reconstruct"]), default="magnitude", show_default=True)
@click.option("--layers", multiple=True, help="This layer, may be repeated; auto: see below [default: all eligible].")
@click.option("--permute", is_flag=True, help="magnitude: reorder channels first, so that more is kept.")
@click.option("--images", help="reconstruct: folder, glob or video like what the detector will see.")
@click.option("--count", type=click.IntRange(1), default=256, show_default=True, help="Use so many of them.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), help="auto: this share of the eligible MACs.")
@click.option("--max-drop", type=click.FloatRange(0), help="auto: at most so many mAP points of --data lost.")
@click.option("--device", help="auto: weigh layers by their predicted gain on this board, not by MACs.")
@click.option("--data", type=PATH, help="COCO JSON, or a folder that holds instances_val.json, to score on.")
@click.option("--annotated-images", type=PATH, help="Folder of the annotated images [default: beside the annotations].")
@click.option("--classes", help="'coco', or a file with the class names, for a model that names none.")
@click.option("--state", type=PATH, help="reconstruct: folder to keep work in; repeated, the call goes on from there.")
@click.option("--html", type=PATH, help="reconstruct: write a report a layer, one self-contained page.")
@click.option("--force", is_flag=True, help="Overwrite the files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(target: Path, output: Path, method: str, force: bool, as_json: bool, **options: Any) -> None:
    """Make the model of MODEL.onnx or RECIPE.yaml 2:4: of each four consecutive input channels two stay.

    magnitude keeps the largest, in seconds, and needs training afterwards. reconstruct needs no training but images:
    it refits each layer to what it put out before. With --layers auto, implied by --share, --max-drop and --device, it
    prunes the layers that change the outputs least for what they save: as many as cost one point of --data, unless
    --share or --max-drop say otherwise.
    """
    given = [f"--{name.replace('_', '-')}" for name in RECONSTRUCTS if options[name] is not None]
    given += ["--layers auto"] if "auto" in options["layers"] else []
    if method == "magnitude" and given:
        raise click.UsageError(f"{given[0]} is for --method reconstruct")
    if method == "reconstruct" and options["images"] is None:
        raise click.UsageError("--method reconstruct needs --images: a folder like what the detector will see")
    check_free(output, force)
    check_free(options["html"], force)
    with progress() as advance:
        said, show = (_magnitude if method == "magnitude" else _reconstruct)(target, output, advance, **options)
    if as_json:
        emit_json({"model": str(target), "output": str(output), "method": method, **said})
        return
    show()
    click.echo(f"wrote {output}; next: edgesparse evaluate {output} --data ...")


def _magnitude(target: Path, output: Path, advance: Progress, **options: Any) -> Done:
    from edgesparse.builder.targets import recipe_of
    from edgesparse.model.load import load, save
    from edgesparse.sparsity.prune import prune as by_magnitude

    advance("reading the model", 0, 0)
    loaded = load(recipe_of(target, options["classes"]).model)
    advance("pruning", 0, 0)
    report = by_magnitude(loaded, options["layers"] or None, options["permute"], advance)
    write(output, partial(save, loaded))
    if report.warning:
        complain(f"warning: {report.warning}")
    return report.as_dict(), partial(_show_magnitude, target, report)


def _reconstruct(target: Path, output: Path, advance: Progress, **options: Any) -> Done:
    from edgesparse.builder.objects import found, reader
    from edgesparse.builder.prepare import detector_spec
    from edgesparse.builder.scoring import points
    from edgesparse.builder.targets import recipe_of
    from edgesparse.model.load import load, save
    from edgesparse.runtime.evaluate import Labels
    from edgesparse.sparsity import page
    from edgesparse.sparsity.reconstruct import reconstruct
    from edgesparse.stream.sources.open import image_batches

    layers = _wanted(**options)
    advance("reading the model", 0, 0)
    recipe = recipe_of(target, options["classes"])
    loaded = load(recipe.model)
    labels = Labels(annotation_file(options["data"]), options["annotated_images"]) if options["data"] else None
    spec = detector_spec(loaded, recipe)
    images = image_batches(options["images"], spec.input, options["count"])
    gains = _gains(loaded, spec, options["device"]) if options["device"] else None
    made, report = reconstruct(
        loaded,
        images,
        layers=layers,
        score=partial(points, spec=spec, labels=labels, progress=partial(advance, "scoring")) if labels else None,
        max_drop=options["max_drop"],
        share=options["share"],
        gains=gains,
        objects=found(loaded, images, spec),
        read=reader(spec),
        progress=advance,
        state_dir=options["state"],
    )
    write(output, partial(save, made))
    if options["html"]:
        write(options["html"], lambda path: path.write_text(page.page(target.name, report)))
    return report.as_dict(), partial(_show_reconstruct, target, report)


def _wanted(**options: Any) -> list[str] | Literal["auto"] | None:
    """The layers to prune: "auto", names, or None for every eligible one."""
    names = list(options["layers"])
    if any(options[name] is not None for name in ("share", "max_drop", "device")) or "auto" in names:
        if names not in ([], ["auto"]):
            raise click.UsageError(f"--layers {names[0]} names what to prune: leave it out to have layers chosen")
        return "auto"
    return names or None


def _gains(model: Any, spec: DetectorSpec, device: str) -> dict[str, float]:
    """Milliseconds that 2:4 saves at most in each layer on a board, in FP16."""
    from edgesparse.model.activations import input_name
    from edgesparse.predict import boards, fusion, roofline

    works = fusion.fused_layers(model, {input_name(model): (1, 3, *spec.input.size)})
    return {gain.name: gain.fp16_ms for gain in roofline.gains(roofline.predict_all(works, boards.board(device)))}


def _show_magnitude(model: Path, report: PruneReport) -> None:
    if not report.changed:
        click.echo(f"all {len(report.layers)} layers are 2:4 already: nothing changed")
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
        ("layer", "state", "why", "MACs M", "output lost %"),
        ((r.name, r.state, r.why, r.macs / 1e6, "-" if r.error is None else 100 * r.error) for r in report.layers),
        numbers=2,
    )
    if report.drop is not None:
        click.echo(f"mAP {report.dense_score:.1f} before, {report.score:.1f} after: {report.drop:.1f} lost")
