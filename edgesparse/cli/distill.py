"""`distill`: a faster detector learns from the original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import emit_json, progress, table

if TYPE_CHECKING:
    from edgesparse.tasks.distill import DistillResult


@click.command(cls=Verb)
@click.argument("target", type=options.PATH, metavar="MODEL.onnx|RECIPE.yaml")
@options.output("Write this file.")
@click.option(
    "--images",
    type=options.TEXT,
    multiple=True,
    required=True,
    metavar="SOURCE",
    help="Learn from this folder or video; repeatable.",
)
@click.option(
    "--count", type=options.COUNT, default=500, show_default=True, metavar="N", help="Use at most N images per source."
)
@click.option("--student", type=options.PATH, metavar="FILE", help="Start from this changed model.")
@click.option(
    "--relu",
    type=options.SHARE,
    is_flag=False,
    flag_value=1.0,
    default=0.0,
    metavar="[F]",
    help="ReLU for SiLU, behind this share of the MACs.",
)
@click.option(
    "--sparse", type=options.SHARE, default=0.0, metavar="F", help="Make layers with this share of the MACs 2:4."
)
@click.option("--int8", is_flag=True, help="Learn with INT8's rounding, and write Q/DQ.")
@click.option(
    "--minutes",
    type=options.POSITIVE,
    default=10.0,
    show_default=True,
    metavar="M",
    help="Train for this many minutes.",
)
@click.option("--batch", type=options.COUNT, metavar="N", help="Images per step (default: 4, on a GPU 16).")
@click.option("--rate", type=options.POSITIVE, metavar="R", help="Relative learning rate (5e-4, on a GPU 1e-3).")
@click.option("--state", type=options.PATH, metavar="FOLDER", help="Keep checkpoints in this folder.")
@options.labels()
@options.annotated_images("--annotated-images")
@options.names
@options.force
@options.as_json
def distill(target: Path, output: Path, as_json: bool, **fields: Any) -> None:
    """Teach a faster detector from this one, without labels.

    The student starts with the model's weights, or with those of --student, such as a file that 'prune' wrote, whose
    layers stay 2:4. With --relu, ReLU replaces SiLU and HardSwish: everywhere, or behind layers with a share F of the
    MACs. With --sparse, layers with a share F become 2:4. F counts the MACs of layers that can be 2:4, as in 'prune
    --share'. Layers are chosen where ReLU and 2:4 together change the outputs least, and refitted as by 'prune';
    ranges for --int8 are set as by 'quantize'.

    From there, the student learns to reproduce the model's maps and features on the images, which are varied; without
    progress, the start is the result. This needs PyTorch, and uses a GPU if there is one. After an interruption, the
    same command continues.
    """
    from edgesparse.compress.student import StudentOptions
    from edgesparse.errors import ConfigError
    from edgesparse.tasks.distill import DistillOptions, distill_file
    from edgesparse.tasks.inputs import Annotated

    changes = StudentOptions(
        **{name: fields.pop(name) for name in ("relu", "sparse", "int8", "minutes", "batch", "rate")}
    )
    annotations, folder = fields.pop("annotations"), fields.pop("annotated_images")
    if folder is not None and annotations is None:
        raise ConfigError("--annotated-images needs --annotations")
    annotated = None if annotations is None else Annotated(Path(annotations), None if folder is None else Path(folder))
    with progress() as advance:
        result = distill_file(target, output, DistillOptions(changes=changes, annotated=annotated, **fields), advance)
    if as_json:
        emit_json(result.as_dict())
        return
    _show(target, result)
    click.echo(f"wrote {output}; next: edgesparse evaluate {output} --annotations ...")


def _show(model: Path, result: DistillResult) -> None:
    training = result.training
    table(
        f"{model.name}: {training['step']} steps on {training['images']} images, {training['device']}",
        ("minutes", "steps", "error while training", "error on images held out"),
        (
            (row["seconds"] / 60, row["step"], row.get("loss", "-"), row["held_out"])
            for row in _thinned(training["history"])
        ),
        numbers=4,
    )
    if training["best_step"] < training["step"]:
        click.echo(
            f"the weights of step {training['best_step']} are the result: later ones are worse on images held out"
        )
    if result.before is not None and result.after is not None:
        click.echo(f"mAP {result.before:.1f} before, {result.after:.1f} after: {result.before - result.after:.1f} lost")


def _thinned(rows: list[dict[str, float]], most: int = 12) -> list[dict[str, float]]:
    """Return at most `most` rows, including the first and the last."""
    return [rows[i * (len(rows) - 1) // (most - 1)] for i in range(most)] if len(rows) > most else rows
