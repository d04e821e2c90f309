"""`quantize`: INT8 that keeps its accuracy, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import complain, emit_json, progress, table

if TYPE_CHECKING:
    from edgesparse.int8.recover_report import RecoverReport

METHODS = ("best", "entropy", "percentile", "mse", "max")


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET, metavar="MODEL.onnx|RECIPE.yaml")
@options.output("Write this file.")
@options.calibration_images(required=True, count=160)
@click.option(
    "--placement",
    type=click.Choice(["fuse", "sparse"]),
    default="fuse",
    show_default=True,
    help="Place Q/DQ pairs this way; see above.",
)
@click.option(
    "--method", type=click.Choice(METHODS), default="mse", show_default=True, help="Choose ranges with this method."
)
@click.option(
    "--max-drop", type=options.NOT_NEGATIVE, metavar="POINTS", help="Keep layers in float to lose at most this."
)
@click.option("--min-map", type=options.NOT_NEGATIVE, metavar="POINTS", help="Keep layers in float to reach this.")
@click.option("--max-confidence-shift", type=options.SHARE, metavar="SHIFT", help="Keep layers in float to shift less.")
@click.option(
    "--device", type=options.BoardType(), metavar="BOARD", help="Predict gains there, e.g. orin-nano-8gb:15W."
)
@options.labels()
@options.annotated_images("--annotated-images")
@click.option("--keep", multiple=True, metavar="LAYER", help="Keep this layer in float; repeatable.")
@click.option("--calibration", type=options.PATH, metavar="FILE", help="Reuse ranges from this file, or write it.")
@click.option("--from-table", type=options.PATH, metavar="FILE", help="Read ranges from TensorRT's table.")
@click.option("--table", type=options.PATH, metavar="FILE", help="Write a table for TensorRT and its model.")
@options.steps("all weights")
@click.option("--state", type=options.PATH, metavar="FOLDER", help="Save the training here, to resume it.")
@options.names
@options.html
@options.force
@options.as_json
def quantize(target: Path, output: Path, as_json: bool, **fields: Any) -> None:
    """Write a model with Q/DQ for INT8, calibrated on images.

    Placement fuse puts Q/DQ after the activations; sparse also directly after each 2:4 layer, where TensorRT's sparse
    INT8 kernels need it. With --max-drop, --min-map or --max-confidence-shift, as few layers as possible stay in float:
    those that lose most for their share of the work or, with --device, for the time that INT8 is predicted to save
    there. The last of these limits needs no labels: it is the median change of confidences on images held out. Without
    limits, such layers stay in float if the outputs change a lot, up to 3 % of the work. Confidences are brought back
    to those of the float model where the head allows it exactly. With --steps, all weights and ranges are then trained
    together on the images, with values rounded as in an engine, until images held out no longer improve.

    --table writes a calibration table, which TensorRT 8.5 to 10 uses instead of Q/DQ: it belongs to the float model
    that is written next to it, TABLE.onnx, not to MODEL.onnx.
    """
    from edgesparse.tasks.quantize import QuantizeOptions, quantize_file

    with progress() as advance:
        result = quantize_file(target, output, QuantizeOptions(**fields), advance)
    for warning in result.report.warnings:
        complain(f"warning: {warning}")
    if as_json:
        emit_json(result.as_dict())
        return
    _show(target, result.report)
    if result.confidence is not None:
        before = result.uncorrected
        note = f"corrected from {before.median:.3f} (median)" if before is not None else result.not_corrected
        click.echo(f"{result.confidence}; {note}; per class: --json or --html")
    click.echo(f"wrote {', '.join(map(str, result.written))}; next: edgesparse evaluate {output} --annotations ...")


def _show(model: Path, report: RecoverReport) -> None:
    table(
        f"{model.name}: {100 * report.share:.1f} % of the convolutions' multiply-accumulates are INT8",
        ("layer", "type", "reason", "MACs M", "output lost %"),
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
    if report.training is not None:
        click.echo(str(report.training))
    if report.drop is not None:
        click.echo(f"{report.drop:.1f} points lost from FP32")
