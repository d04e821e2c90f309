"""Options that several verbs share: one meaning and one help text each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Verb = TypeVar("Verb", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
DROP = click.FloatRange(0)


def output(help_text: str, *, required: bool = True) -> Callable[[Verb], Verb]:
    """-o, --output."""
    return click.option("-o", "--output", type=PATH, required=required, help=help_text)


def force(function: Verb) -> Verb:
    return click.option("--force", is_flag=True, help="Overwrite files that exist.")(function)


def as_json(function: Verb) -> Verb:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def store(function: Verb) -> Verb:
    return click.option("--store", type=PATH, default="engines", show_default=True, help="Folder of the packages.")(
        function
    )


def html(function: Verb) -> Verb:
    return click.option("--html", type=PATH, help="Write the report as one self-contained page.")(function)


def device(function: Verb) -> Verb:
    return click.option("--device", metavar="BOARD", help="Predict on this board, as orin-nano-8gb:15W.")(function)


def names(function: Verb) -> Verb:
    text = "Class names, for a model without: 'coco' or a file."
    return renamed("--classes", "--names")(click.option("--names", metavar="FILE", help=text)(function))


def labels(*, required: bool = False) -> Callable[[Verb], Verb]:
    def decorate(function: Verb) -> Verb:
        text = "COCO JSON to score on, or its folder."
        option = click.option("--annotations", type=PATH, required=required, metavar="PATH", help=text)
        return renamed("--data", "--annotations")(option(function))

    return decorate


def annotated_images(name: str) -> Callable[[Verb], Verb]:
    """The folder of the annotated images, under `name`."""
    text = "Folder of the annotated images, if not beside them."
    return click.option(name, type=PATH, metavar="FOLDER", help=text)


def calibration_images(*, required: bool, count: int) -> Callable[[Verb], Verb]:
    """--images and --count: what ranges are set, or layers refitted, on."""

    def decorate(function: Verb) -> Verb:
        number = click.option(
            "--count", type=click.IntRange(1), default=count, show_default=True, help="Use at most so many images."
        )
        text = "Folder, glob or video like what the camera sees."
        option = click.option("--images", required=required, metavar="SOURCE", help=text)
        return renamed("--pictures", "--images")(option(number(function)))

    return decorate


def test_images(function: Verb) -> Verb:
    text = "Images for the self-test [default: the recipe's]."
    option = click.option("--images", type=PATH, metavar="FOLDER", help=text)
    return renamed("--pictures", "--images")(option(function))


def renamed(old: str, new: str) -> Callable[[Verb], Verb]:
    """Refuse a former option, and name its successor."""

    def refuse(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise click.UsageError(f"{old} is now {new}", context)

    return click.option(old, hidden=True, expose_value=False, is_eager=True, callback=refuse)
