"""`quantize`: INT8 that keeps its accuracy, without training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli.score import annotation_file
from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.cli.writing import check_free, write
from edgesparse.errors import ModelError
from edgesparse.progress import Progress

if TYPE_CHECKING:
    from edgesparse.int8.recover import Recovered
    from edgesparse.int8.recovery import RecoverReport
    from edgesparse.model.activations import Batches
    from edgesparse.runtime.images import ImageBatches

PATH = click.Path(path_type=Path)
METHODS = ("best", "entropy", "percentile", "mse", "max")


@click.command()
@click.argument("target", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="File to write.")
@click.option("--images", required=True, help="Folder, glob or video like what the detector will see.")
@click.option("--count", type=click.IntRange(1), default=160, show_default=True, help="Use so many of them.")
@click.option("--placement", type=click.Choice(["fuse", "sparse"]), default="fuse", show_default=True)
@click.option("--method", type=click.Choice(METHODS), default="mse", show_default=True, help="How ranges are set.")
@click.option("--max-drop", type=click.FloatRange(0), help="Keep layers float until at most so many points are lost.")
@click.option("--data", type=PATH, help="COCO JSON, or a folder that holds instances_val.json, to score on.")
@click.option("--annotated-images", type=PATH, help="Folder of the annotated images [default: beside the annotations].")
@click.option("--keep", multiple=True, help="This layer stays float; may be repeated.")
@click.option("--calibration", type=PATH, help="Reuse this file where it fits, else write it.")
@click.option("--from-table", type=PATH, help="Take the ranges from TensorRT's calibration table of this model.")
@click.option("--table", "cache", type=PATH, help="Write TensorRT's calibration table, and its float model beside it.")
@click.option("--html", type=PATH, help="Write a report a layer, one self-contained page.")
@click.option("--classes", help="'coco', or a file with the class names, for a model that names none.")
@click.option("--force", is_flag=True, help="Overwrite the files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quantize(target: Path, output: Path, cache: Path | None, force: bool, as_json: bool, **options: Any) -> None:
    """Write the model of MODEL.onnx or RECIPE.yaml with Q/DQ for INT8, its ranges and biases set by images.

    Placement fuse puts Q/DQ behind the activations; sparse also right behind each layer that is 2:4, where TensorRT's
    sparse INT8 kernels need it. With --max-drop, the layers that cost most for their work stay float, as few as it
    takes. --table writes what TensorRT 8.5 to 10 calibrates from instead of Q/DQ: it belongs to the float model that is
    written beside it, TABLE.onnx, not to MODEL.onnx.
    """
    if options["max_drop"] is not None and options["data"] is None:
        raise click.UsageError("--max-drop needs --data: labelled images to score on")
    if options["from_table"] is not None and options["calibration"] is not None:
        raise click.UsageError("--from-table and --calibration: ranges come from one of them")
    owner = cache.with_name(f"{cache.name}.onnx") if cache else None
    for path in (output, cache, owner, options["html"]):
        check_free(path, force)
    with progress() as advance:
        done, batches = _recovered(target, cache is not None, advance, **options)
        advance("writing", 0, 0)
        write(output, partial(_save_checked, done.quantised, batches))
        written = [output, *_write_table(done, cache, owner), *_write_calibration(done, options["calibration"], force)]
    if options["html"]:
        from edgesparse.int8 import page

        write(options["html"], lambda path: path.write_text(page.page(target.name, done.report)))
        written.append(options["html"])
    for warning in done.report.warnings:
        complain(f"warning: {warning}")
    if as_json:
        emit_json({"model": str(target), "written": [str(path) for path in written], **done.report.as_dict()})
        return
    _show(target, done.report)
    click.echo(f"wrote {', '.join(map(str, written))}; next: edgesparse evaluate {output} --data ...")


def _recovered(target: Path, table: bool, advance: Progress, **options: Any) -> tuple[Recovered, ImageBatches]:
    from edgesparse.builder.prepare import detector_spec
    from edgesparse.builder.scoring import points
    from edgesparse.builder.targets import recipe_of
    from edgesparse.int8.recover import recover
    from edgesparse.int8.representative import size_warnings
    from edgesparse.model.load import load
    from edgesparse.runtime.evaluate import Labels
    from edgesparse.stream.sources.open import image_batches

    advance("reading the model", 0, 0)
    recipe = recipe_of(target, options["classes"])
    loaded = load(recipe.model)
    scales = _scales(options["from_table"])
    labels = Labels(annotation_file(options["data"]), options["annotated_images"]) if options["data"] else None
    spec = detector_spec(loaded, recipe)
    images = image_batches(options["images"], spec.input, options["count"])
    done = recover(
        loaded,
        images,
        method=options["method"],
        placement=options["placement"],
        keep=options["keep"],
        score=partial(points, spec=spec, labels=labels, progress=partial(advance, "scoring")) if labels else None,
        max_drop=options["max_drop"],
        scales=scales,
        table=table,
        spec=spec.input,
        saved=options["calibration"],
        progress=advance,
    )
    warnings = (*size_warnings(images.sizes, spec.input), *done.report.warnings)
    return replace(done, report=replace(done.report, warnings=warnings)), images


def _scales(path: Path | None) -> dict[str, float] | None:
    """What a TensorRT table says. Raises CalibrationError where there is none."""
    from edgesparse.errors import CalibrationError
    from edgesparse.int8 import calibration_table

    if path is None:
        return None
    try:
        return dict(calibration_table.read(path.read_bytes()).scales)
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {error.strerror}") from None


def _save_checked(model: Any, batches: Batches, path: Path) -> None:
    """Save, read back, and run on an image. Raises ModelError where ONNX Runtime cannot, or puts out no numbers."""
    import numpy as np

    from edgesparse.model.activations import stream
    from edgesparse.model.load import load, save

    save(model, path)
    outputs = [value.name for value in model.graph.output]
    for values in stream(load(path), lambda: islice(batches(), 1), outputs):
        if not all(np.isfinite(value).all() for value in values.values()):
            raise ModelError("the INT8 model puts out NaN or infinity: keep layers in float with --keep")


def _write_table(done: Recovered, cache: Path | None, owner: Path | None) -> list[Path]:
    from edgesparse.int8 import calibration_table
    from edgesparse.model.load import save

    if cache is None or owner is None:
        return []
    write(owner, partial(save, done.model))
    write(cache, lambda path: path.write_bytes(calibration_table.write(done.scales)))
    return [cache, owner]


def _write_calibration(done: Recovered, path: Path | None, force: bool) -> list[Path]:
    from edgesparse.int8.calibration import Calibration

    if path is None:
        return []
    if path.exists() and not force:
        if Calibration.load(path).key != done.calibration.key:
            complain(f"warning: {path} is of another model, images or settings: not used, and kept without --force")
        return []
    write(path, done.calibration.save)
    return [path]


def _show(model: Path, report: RecoverReport) -> None:
    table(
        f"{model.name}: {100 * report.share:.1f} % of the convolutions' multiply-accumulates are INT8",
        ("layer", "", "why", "MACs M", "output lost %"),
        (
            (
                layer.name,
                "INT8" if layer.int8 else "float",
                layer.why,
                "-" if layer.macs is None else layer.macs / 1e6,
                "-" if layer.error is None else 100 * layer.error,
            )
            for layer in report.layers
        ),
        numbers=2,
    )
    table(
        "step by step",
        ("", "outputs changed %", "mAP"),
        ((step.what, 100 * step.change, "-" if step.score is None else step.score) for step in report.steps),
        numbers=2,
    )
    if report.drop is not None:
        click.echo(f"{report.drop:.1f} points lost from FP32")
