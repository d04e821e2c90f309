"""`fit`: one search for a faster network, under one budget of mAP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import emit_json, progress, table
from edgesparse.errors import AccuracyGateFailed

if TYPE_CHECKING:
    from edgesparse.tasks.fit_report import FitReport


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET, metavar="RECIPE.yaml|MODEL.onnx")
@options.output("Write network, recipe and page here.")
@options.labels()
@options.annotated_images("--annotated-images")
@options.calibration_images(required=False, count=160)
@click.option(
    "--device",
    type=options.BoardType(),
    default="orin-nano-8gb",
    show_default=True,
    metavar="BOARD",
    help="Predict gains there, e.g. orin-nano-8gb:15W.",
)
@click.option(
    "--target-ms", type=options.Number(0, 1e6, min_open=True), metavar="MS", help="Stop at this predicted latency."
)
@click.option(
    "--max-drop", type=options.NOT_NEGATIVE, metavar="POINTS", help="Lose at most this [default: 1; 15 unlabeled]."
)
@click.option("--minutes", type=options.Number(0, 1e6, min_open=True), metavar="N", help="End the search after this.")
@click.option(
    "--student",
    "students",
    type=options.PATH,
    multiple=True,
    metavar="MODEL.onnx",
    help="Also start here; repeatable.",
)
@options.steps("2:4 weights")
@click.option("--build", type=options.Count(0), default=0, metavar="N", help="Build and time the N fastest here.")
@options.names
@options.force
@options.as_json
def fit(target: Path, output: Path, as_json: bool, **fields: Any) -> None:
    """Search for a faster network that loses at most this much mAP.

    Starts from the network as it is, with a smaller input, and from each --student; each is also rewritten by slim. For
    each layer and block of channels it predicts what INT8, 2:4 and fewer channels save on the board, and measures how
    much each alone changes the boxes. Where 2:4 or INT8 needs ReLU in place of SiLU, both are one choice. A knapsack
    finds the best set for any change; the best few networks are made, their layers refitted on --images, and the
    fastest whose mAP, measured here on --annotations, is within --max-drop is the result. It is then scored on the
    recipe's accept.annotations, which must be others. Nothing is trained, except with --steps. Latencies are predicted;
    with --build, the networks that are predicted to be fastest are built and timed on this machine, and the fastest
    engine that passes the recipe's gate decides. After an interruption, the same command continues.

    Without --annotations, the boxes that the float network keeps on --images take the place of labels: networks are
    chosen on half of the images, and the result is reported on the others. Scores are then agreement with the float
    network, which falls faster than accuracy: --max-drop is 15 points by default, instead of 1.
    """
    from edgesparse.tasks.fit import fit_folder
    from edgesparse.tasks.fit_network import FitOptions

    with progress() as advance:
        report = fit_folder(target, output, FitOptions(**fields), advance)
    if as_json:
        emit_json(report.as_dict())
    else:
        _show(report)
        click.echo(f"wrote {', '.join(report.written)}; next: edgesparse build {output / 'fit.yaml'}")
    if report.missed:
        raise AccuracyGateFailed(f"not met: {report.missed}")


def _show(report: FitReport) -> None:
    from edgesparse.predict.boards import held_out
    from edgesparse.tasks.fit_report import AGREEMENT, WEAKER

    table(
        f"{report.model}: milliseconds predicted for {report.device} ({held_out()})",
        ("step", "result", "reason", "ms", f"{report.measure} choosing", f"{report.measure} evaluation"),
        (
            (rung.name, rung.outcome, rung.why, _cell(rung.ms, 2), _cell(rung.score, 1), _cell(rung.evaluated, 1))
            for rung in report.rungs
        ),
        numbers=3,
    )
    table(
        "networks that were tried",
        ("network", "result", "reason", "ms", f"{report.measure} choosing"),
        ((trial.name, trial.outcome, trial.why, _cell(trial.ms, 2), _cell(trial.score, 1)) for trial in report.trials),
        numbers=2,
    )
    if any(trial.engine for trial in report.trials):
        table(
            "built and timed on this machine",
            ("network", "engine", "ms"),
            ((trial.name, trial.engine, _cell(trial.measured, 3)) for trial in report.trials if trial.engine),
            numbers=1,
        )
    lost = f"{report.drop:.1f} points of {report.measure} lost"
    click.echo(f"{report.chosen}: predicted {report.speedup:.2f} times as fast as FP32; {lost}")
    if report.measure == AGREEMENT:
        click.echo(WEAKER)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
