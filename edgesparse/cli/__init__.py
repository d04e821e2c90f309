"""The command line: one verb, one function call. Verbs import what they need when they run."""

from __future__ import annotations

import errno
import logging
import re
import sys
import threading

import click

from edgesparse.cli import (
    bench,
    build,
    bundle,
    check_labels,
    delta,
    demo,
    deploy,
    distill,
    doctor,
    evaluate,
    export,
    fit,
    fleet,
    hard_frames,
    inspect,
    keys,
    process,
    prune,
    quantize,
    recipe,
    rollback,
    run,
    serve,
    service,
    slim,
    status,
)
from edgesparse.cli.groups import Workflow
from edgesparse.cli.show import complain
from edgesparse.errors import MACHINE_LACKS, REFUSED, WRONG_USE, EdgeSparseError
from edgesparse.redaction import RedactingFormatter
from edgesparse.supervised import MORE_THREADS, NO_THREAD
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

    Outputs: missing folders are created; existing files are only overwritten with --force.

    Exit codes: 0 done, 1 refused or not met, 2 wrong use, 3 the machine lacks something.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for verb in (
    doctor.doctor,
    inspect.inspect,
    slim.slim,
    distill.distill,
    prune.prune,
    quantize.quantize,
    fit.fit,
    recipe.recipe,
    build.build,
    check_labels.check_labels,
    evaluate.evaluate,
    bench.bench,
    run.run,
    serve.serve,
    service.service,
    hard_frames.hard_frames,
    keys.keys,
    bundle.bundle,
    delta.delta,
    deploy.deploy,
    rollback.rollback,
    status.status,
    fleet.fleet,
    export.export,
    demo.demo,
):
    verbs.add_command(verb)


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and exit with its code. Any error is one line on standard error."""
    process.prepare_streams()
    process.prepare_signals(sys.argv[1:] if arguments is None else arguments)
    _prepare_log()
    try:
        code = verbs.main(arguments, prog_name="edgesparse", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        code = _failed(error, sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        complain("interrupted")
        code = 130
    except SystemExit as end:
        # No verb exits like this with 1: click and rich do, if standard output is a broken pipe.
        code = _failed(BrokenPipeError(errno.EPIPE, "Broken pipe"), []) if end.code == REFUSED else end.code
    sys.exit(code)


def _prepare_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("edgesparse: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread.name if failure.thread is not None else "unknown"
    logging.getLogger("edgesparse").error("thread %s ended: %r", name, failure.exc_value, exc_info=failure.exc_value)


def _failed(error: Exception, arguments: list[str]) -> int:
    """Print an error in one line. Returns the exit code."""
    if isinstance(error, EdgeSparseError):
        complain(str(error))
        return error.exit_code
    if isinstance(error, click.Abort):
        complain("interrupted")
        return 130
    if isinstance(error, click.ClickException):
        complain(f"{_quoted_bytes(error.format_message())} (see '{_command(error)} --help')")
        return WRONG_USE
    if isinstance(error, MemoryError):
        complain("out of memory: close other programs, or use a smaller model or batch")
        return MACHINE_LACKS
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        complain(f"{NO_THREAD}: {MORE_THREADS}")
        return MACHINE_LACKS
    if isinstance(error, BrokenPipeError) and process.reader_has_gone():
        process.discard_output()
        return 0
    if isinstance(error, OSError):
        process.discard_output()
        closed = error.errno == errno.EBADF and error.filename is None
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        complain("standard output is closed" if closed else f"cannot continue: {reason}")
        return REFUSED
    complain(process.report(error, arguments))
    return REFUSED


def _quoted_bytes(message: str) -> str:
    """Write a byte that is not UTF-8 as \\xe9; click, which quotes with repr, writes \\udce9."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", message)


def _command(error: click.ClickException) -> str:
    """Return the command that was used wrongly, such as `edgesparse keys new`."""
    context: click.Context | None = getattr(error, "ctx", None)
    return "edgesparse" if context is None else context.command_path
