"""The command line: one verb, one function call. Verbs import what they need when they run."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

import click

from edgesparse.cli import (
    bench,
    build,
    bundle,
    check_labels,
    demo,
    deploy,
    doctor,
    evaluate,
    export,
    inspect,
    keys,
    prune,
    quantize,
    recipe,
    rollback,
    run,
    status,
)
from edgesparse.cli.groups import Workflow
from edgesparse.cli.show import complain
from edgesparse.errors import EdgeSparseError
from edgesparse.version import VERSION


@click.group(
    cls=Workflow,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(VERSION, prog_name="edgesparse")
@click.pass_context
def verbs(context: click.Context) -> None:
    """Build and run fast, 2:4-sparse YOLO-style detectors on small devices.

    Exit codes: 0 done, 1 refused or not met, 2 wrong use, 3 the machine lacks something.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for verb in (
    doctor.doctor,
    inspect.inspect,
    prune.prune,
    quantize.quantize,
    recipe.recipe,
    build.build,
    check_labels.check_labels,
    evaluate.evaluate,
    bench.bench,
    run.run,
    keys.keys,
    bundle.bundle,
    deploy.deploy,
    rollback.rollback,
    status.status,
    export.export,
    demo.demo,
):
    verbs.add_command(verb)


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and exit with its code; an expected error is one line on standard error."""
    logging.basicConfig(format="edgesparse: %(message)s", level=logging.WARNING, stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup, nor for a service
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        code = verbs.main(arguments, prog_name="edgesparse", standalone_mode=False)
        sys.stdout.flush()
    except EdgeSparseError as error:
        complain(str(error))
        code = error.exit_code
    except click.ClickException as error:
        complain(f"{' '.join(error.format_message().split())} (see '{_command(error)} --help')")
        code = 2
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        code = 130
    except OSError as error:
        _let_go_of_output()
        if not isinstance(error, BrokenPipeError):
            complain(f"cannot go on: {error}")
        code = 1
    sys.exit(code)


def _let_go_of_output() -> None:
    """What standard output still holds cannot be written: leave Python nothing to complain of when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: outputs are completed, the summary is printed."""
    raise KeyboardInterrupt


def _command(error: click.ClickException) -> str:
    """The command that was used wrongly, as `edgesparse keys new`."""
    context: click.Context | None = getattr(error, "ctx", None)
    return "edgesparse" if context is None else context.command_path
