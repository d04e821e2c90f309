"""Options shared by several verbs, each with one meaning and one help text."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

Verb = TypeVar("Verb", bound=Callable[..., Any])


if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # not generic before click 8.2


class PathType(_Type):
    """A path that may not exist: each verb reports what is wrong with it in its own words."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value) or "\0" in str(value):
            self.fail("needed a path, found " + ("a NUL character" if value else "nothing"), param, ctx)
        try:
            Path(value).stat()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                self.fail("the name is too long for a file", param, ctx)
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class TargetType(PathType):
    """A model, a recipe, a package or `demo`. The shell completes packages of the store, and files."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        store = Path(ctx.params.get("store") or "engines")
        packages = sorted(str(manifest.parent.parent) for manifest in store.glob("*/current/manifest.json"))
        names = [name for name in ("demo", *packages) if name.startswith(incomplete)]
        return [*map(CompletionItem, names), *super().shell_complete(ctx, param, incomplete)]


class BoardType(_Type):
    """A board, with an optional power mode."""

    name = "board"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return text(str(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgesparse.predict.boards import board_names

        return [CompletionItem(name) for name in board_names() if name.startswith(incomplete)]


def text(value: str) -> str:
    """Accept a string that is not empty."""
    if not value.strip() or "\0" in value:
        raise click.BadParameter("needed a value, found " + ("a NUL character" if value.strip() else "nothing"))
    return value


class Count(click.IntRange):
    """A whole number that fits into 32 bits."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if abs(number) > MOST:
            self.fail(f"{value} is more than {MOST}", param, ctx)
        return number


class Number(click.FloatRange):
    """A finite number."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


MOST = (1 << 31) - 1
PATH, TARGET, TEXT = PathType(), TargetType(), text
COUNT = Count(1)
SHARE = Number(0, 1)
POSITIVE = Number(0, min_open=True)
NOT_NEGATIVE = Number(0)


def output(help_text: str, *, required: bool = True) -> Callable[[Verb], Verb]:
    """-o, --output."""
    return click.option("-o", "--output", type=PATH, required=required, metavar="PATH", help=help_text)


def force(function: Verb) -> Verb:
    """--force, for the verbs that write files."""
    return click.option("--force", is_flag=True, help="Overwrite existing files.")(function)


def as_json(function: Verb) -> Verb:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def store(function: Verb) -> Verb:
    """--store."""
    option = click.option(
        "--store",
        type=PATH,
        default="engines",
        show_default=True,
        metavar="FOLDER",
        help="Store packages in this folder.",
    )
    return option(function)


def html(function: Verb) -> Verb:
    """--html."""
    return click.option("--html", type=PATH, metavar="FILE", help="Write the report as one HTML page.")(function)


def tiles(function: Verb) -> Verb:
    """--tiles, checked before anything is built."""

    def checked(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            from edgesparse.config import Run, override

            override(Run(), {"tiles": value}, "--tiles")
        return value

    text = "Use tiles too: auto, none, SIZE[,OVERLAP]."
    return click.option("--tiles", type=TEXT, metavar="TILES", help=text, callback=checked)(function)


def lines(function: Verb) -> Verb:
    """--line, as a mapping from names to points, checked before anything is built."""

    def checked(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
        from edgesparse.config import Run, override

        parsed = {}
        for value in values:
            name, _, numbers = value.partition("=")
            try:
                x1, y1, x2, y2 = map(float, numbers.split(","))
            except ValueError:
                raise click.BadParameter(f"found {value}, needed NAME=X1,Y1,X2,Y2, as way=0.5,0,0.5,1") from None
            if name in parsed:
                raise click.BadParameter(f"found two lines named {name}, needed a name for each")
            parsed[name] = [[x1, y1], [x2, y2]]
        camera = {"name": "camera", "source": "demo", "lines": parsed}
        override(Run(), {"tracking": True, "cameras": [camera]}, "--line")
        return parsed

    text = "Count what crosses; NAME=X1,Y1,X2,Y2."
    return click.option("--line", "lines", type=TEXT, multiple=True, metavar="LINE", help=text, callback=checked)(
        function
    )


def device(function: Verb) -> Verb:
    """--device: a board, with an optional power mode."""
    text = "Predict gains there, e.g. orin-nano-8gb:15W."
    return click.option("--device", type=BoardType(), metavar="BOARD", help=text)(function)


def steps(weights: str) -> Callable[[Verb], Verb]:
    """--steps: how long these weights are trained."""
    text = f"Then train {weights} for N steps (PyTorch)."
    return click.option("--steps", type=Count(0), default=0, metavar="N", help=text)


def names(function: Verb) -> Verb:
    """--names."""
    option = click.option("--names", type=TEXT, metavar="FILE", help="Read class names from this file, or 'coco'.")
    return renamed("--classes", "--names")(option(function))


def labels(*, required: bool = False) -> Callable[[Verb], Verb]:
    """--annotations: the labels to score on."""

    def decorate(function: Verb) -> Verb:
        text = "Score on this COCO JSON, data.yaml or folder."
        option = click.option("--annotations", type=PATH, required=required, metavar="PATH", help=text)
        return renamed("--data", "--annotations")(option(function))

    return decorate


def annotated_images(name: str) -> Callable[[Verb], Verb]:
    """The folder of the annotated images, as the option `name`."""
    text = "Look for the annotated images in this folder."
    return click.option(name, type=PATH, metavar="FOLDER", help=text)


def calibration_images(*, required: bool, count: int) -> Callable[[Verb], Verb]:
    """--images and --count: the images to calibrate ranges or refit layers on."""

    def decorate(function: Verb) -> Verb:
        number = click.option(
            "--count",
            type=COUNT,
            default=count,
            show_default=True,
            metavar="N",
            help="Use at most N images, evenly spaced.",
        )
        text = "Use images of this folder, glob or video."
        option = click.option("--images", type=TEXT, required=required, metavar="SOURCE", help=text)
        return renamed("--pictures", "--images")(option(number(function)))

    return decorate


def test_images(function: Verb) -> Verb:
    """--images, for a bundle."""
    option = click.option("--images", type=PATH, metavar="FOLDER", help="Self-test on these [default: the recipe's].")
    return renamed("--pictures", "--images")(option(function))


def renamed(old: str, new: str) -> Callable[[Verb], Verb]:
    """Refuse a renamed option and name its successor."""

    def refuse(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise click.UsageError(f"{old} is now {new}", context)

    return click.option(old, hidden=True, expose_value=False, is_eager=True, callback=refuse)
