"""`hard-frames`: export frames on which the detector was unsure."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import emit_json, progress


@click.command("hard-frames", cls=Verb)
@click.argument("folder", type=options.PATH, required=False)
@options.output("Write to this new folder.")
@options.as_json
def hard_frames(folder: Path | None, output: Path, as_json: bool) -> None:
    """Export frames on which a service was unsure.

    FOLDER is where the service stores them [default: `hard` in the state folder]. Writes the images, a manifest, and
    the detections as suggestions in COCO JSON.
    """
    from edgesparse.device import state_folder
    from edgesparse.tasks.hard_frames import export

    with progress() as advance:
        report = export(folder or state_folder() / "hard", output, advance)
    if as_json:
        emit_json(report.as_dict())
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
    click.echo(f"{report.folder}: {report.frames} frames ({reasons}), {report.detections} detections as suggestions")
    for line in report.skipped:
        click.echo(f"skipped: {line}")
