"""`serve`: answers images over HTTP, without a camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.run_service import run_service


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET)
@click.option("--host", type=options.TEXT, metavar="ADDRESS", help="Listen on this address [default: 127.0.0.1].")
@click.option("--port", type=options.Count(1, 65535), metavar="N", help="Listen on this port [default: 8080].")
@click.option("--token-file", type=options.PATH, metavar="FILE", help="Require the token in this file.")
@click.option("--conf", type=options.SHARE, metavar="F", help="Drop boxes below this confidence.")
@click.option("--settings", type=options.PATH, metavar="FILE", help="Read the service's settings from this file.")
@options.store
def serve(target: Path, settings: Path | None, store: Path, conf: float | None, **web: Any) -> None:
    """Detect objects in images that are sent over HTTP.

    TARGET is a package, RECIPE.yaml, MODEL.onnx or demo. POST an image to /v1/detect, or use a client of KServe or
    Triton on /v2; /openapi.json describes both. No camera is read: 'run --service' answers the same requests beside
    its cameras. Anything but 127.0.0.1 needs a token. SIGHUP reloads settings and engine, SIGTERM ends it.
    """
    changes = {key: value for key, value in web.items() if value is not None}
    run_service(target, store, settings, {} if conf is None else {"conf": conf}, changes)
