"""Inspect a model file: which layers are 2:4, which could be, and what that could gain on a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgesparse.config import Recipe
from edgesparse.errors import ModelError
from edgesparse.model.load import Model, info, load
from edgesparse.model.shapes import assumed_shapes
from edgesparse.predict import boards, fusion, page, roofline
from edgesparse.predict.boards import Board
from edgesparse.predict.roofline import Prediction
from edgesparse.progress import Progress, quiet
from edgesparse.sparsity.inspect import InspectedLayer, Inspection, inspect
from edgesparse.tasks.inputs import Target, as_recipe
from edgesparse.tasks.writing import check_outputs, write


@dataclass(frozen=True)
class ModelInspection:
    """`report` has the layers; `predictions` are per engine, such as "FP16 2:4", if a `board` was named."""

    model: str
    report: Inspection
    board: Board | None = None
    predictions: Mapping[str, Prediction] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[InspectedLayer, ...]:
        """Every layer of the model, in graph order."""
        return self.report.layers

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        result = {"model": self.model, **self.report.as_dict()}
        if self.board is not None:
            result["prediction"] = roofline.as_dict(dict(self.predictions), self.board)
        return result


def _input_of(recipe: Recipe, model: Model) -> dict[str, tuple[int, ...]]:
    """Return the shape of a dynamic image input at the recipe's size. Raises ModelError if a fixed size differs."""
    size = recipe.input.size
    if size is None:
        return {}
    described = info(model)
    for needed, actual in zip(size, described.inputs[described.image][2:], strict=True):
        if actual not in (needed, None):
            dimensions = "x".join(map(str, described.inputs[described.image][2:]))
            raise ModelError(f"the input is {dimensions}, input.size is {size[0]}x{size[1]}: make them equal")
    return {described.image: (recipe.build.batch.opt, 3, *size)}


def _check_fixed(model: Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ModelError for a shape that differs from what the model fixes; `shapes` refuses unknown names."""
    declared = info(model).inputs
    for name, shape in shapes.items():
        fixed = declared.get(name, ())
        if len(fixed) == len(shape) and any(
            size not in (None, needed) for size, needed in zip(fixed, shape, strict=True)
        ):
            actual, needed = ("x".join("?" if size is None else str(size) for size in each) for each in (fixed, shape))
            raise ModelError(f"input {name!r} is {actual}, not {needed}: leave out its shape, or export it so")


def inspect_file(
    target: Target,
    device: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    html: Path | None = None,
    force: bool = False,
    progress: Progress = quiet,
) -> ModelInspection:
    """Inspect the model of `target`; with `html`, also write a page. Raises ConfigError, ModelError."""
    board = boards.board(device) if device is not None else None
    recipe = as_recipe(target)
    check_outputs((html,), force, [recipe.model, *([] if isinstance(target, Recipe) else [Path(target)])])
    progress("reading the model", 0, 0)
    model = load(recipe.model)
    _check_fixed(model, shapes or {})
    inputs = _input_of(recipe, model) | {name: tuple(shape) for name, shape in (shapes or {}).items()}
    assumed = assumed_shapes(model, inputs)
    inputs |= assumed
    report = replace(inspect(model, inputs), assumed=assumed)
    predictions = roofline.predict_all(fusion.fused_layers(model, inputs), board) if board else {}
    if html is not None:
        text = page.page(recipe.model.name, report, board, predictions)
        write(html, lambda path: path.write_text(text))
    name = str(recipe.model if isinstance(target, Recipe) else target)
    return ModelInspection(name, report, board, predictions)
