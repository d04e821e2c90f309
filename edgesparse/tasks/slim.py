"""Rewrite a model file so that it runs faster and detects the same objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgesparse.compress import SlimOptions, SlimReport, slim
from edgesparse.config import Recipe
from edgesparse.model.load import save
from edgesparse.progress import Progress, quiet
from edgesparse.tasks.inputs import Target, as_recipe, static_model
from edgesparse.tasks.writing import check_outputs, write


@dataclass(frozen=True)
class SlimResult:
    """The file of the rewritten model, and the report on each rewrite."""

    model: str
    output: Path
    report: SlimReport

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"model": self.model, "output": str(self.output), **self.report.as_dict()}


def slim_file(
    target: Target,
    output: Path,
    options: SlimOptions,
    names: str | None = None,
    force: bool = False,
    progress: Progress = quiet,
) -> SlimResult:
    """Rewrite the model of `target` and write it to `output`, with the recipe's batch and size, and constants folded.

    Raises ConfigError, ModelError.
    """
    recipe = as_recipe(target, names)
    inputs = [recipe.model, *([] if isinstance(target, Recipe) else [Path(target)])]
    check_outputs((output,), force, inputs)
    progress("reading the model", 0, 0)
    model, spec = static_model(recipe)
    slimmed, report = slim(model, replace(options, head=spec.head), progress)
    progress("writing", 0, 0)
    write(output, partial(save, slimmed))
    name = str(recipe.model if isinstance(target, Recipe) else target)
    return SlimResult(name, output, report)
