"""Distill a detector: train a faster student to match it on images without labels."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.builder.objects import box_reader, object_masks
from edgesparse.builder.prepare import detector_spec
from edgesparse.compress.lesson import PreparedLesson, compared, network_inputs, prepare_lesson, read_result
from edgesparse.compress.start import StartData, sparse_work, start
from edgesparse.compress.student import StudentOptions, with_relu
from edgesparse.config import DetectorSpec, Recipe
from edgesparse.disk import check_folder, storing
from edgesparse.errors import ConfigError
from edgesparse.files import make_folder
from edgesparse.model.load import Model, load, save
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.tasks.inputs import Annotated, Target, as_recipe, check_images, need_torch, pixels_of
from edgesparse.tasks.writing import check_outputs, write


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """How a detector is distilled.

    - `images`: folders, globs or videos with images like the camera's, without labels; `count` of each, evenly
      spaced.
    - `student`: an ONNX file with the same outputs to start from, such as one from `prune`; None for the model itself.
    - `changes`: ReLU, 2:4, INT8, and how long to train.
    - `state`: folder of checkpoints, from which the same call continues after an interruption. None for a folder next
      to the output that is removed at the end.
    - `annotated`: annotated images to score the model and the student on.
    """

    images: Sequence[str]
    count: int = 500
    student: Path | None = None
    changes: StudentOptions = field(default_factory=StudentOptions)
    state: Path | None = None
    annotated: Annotated | None = None
    names: str | None = None
    force: bool = False

    def check(self) -> None:
        """Raise ConfigError if the options change nothing or are impossible."""
        changes = self.changes
        if not (changes.relu or changes.sparse or changes.int8 or self.student):
            raise ConfigError("nothing to learn: pass --relu, --sparse, --int8 or --student")
        if 0 < changes.relu < changes.sparse:
            raise ConfigError(
                f"--sparse {changes.sparse:g} with --relu {changes.relu:g}: only layers with ReLU become 2:4, needed "
                f"--relu {changes.sparse:g} or more"
            )
        if not self.images:
            raise ConfigError("distill needs --images: a folder of images like those of the camera")
        for source in self.images:
            check_images(source)


@dataclass(frozen=True)
class DistillResult:
    """The student's file, the training's report, and mAP (0 to 100) before and after if labels were passed."""

    model: str
    output: Path
    training: dict[str, Any]
    before: float | None = None
    after: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        scores = {} if self.before is None else {"map_before": self.before, "map": self.after}
        training = {name: value for name, value in self.training.items() if name != "scales"}
        return {"model": self.model, "output": str(self.output), **scores, **training}


def distill_file(target: Target, output: Path, options: DistillOptions, progress: Progress = quiet) -> DistillResult:
    """Train a student of the model of `target` and write it to `output`, with Q/DQ pairs if it was trained in INT8.

    Raises ConfigError, ModelError, SourceError; BackendUnavailable without PyTorch.
    """
    options.check()
    recipe = as_recipe(target, options.names)
    inputs = [recipe.model, *([] if isinstance(target, Recipe) else [Path(target)])]
    check_outputs((output,), options.force, [*inputs, *([options.student] if options.student else [])])
    folder = options.state or output.with_name(f".{output.name}.distill")
    check_folder(folder)
    labels = options.annotated.read() if options.annotated else None
    need_torch("distill")
    progress("reading the model", 0, 0)
    teacher = load(recipe.model)
    spec = detector_spec(teacher, recipe)
    student = load(options.student) if options.student else None
    _check(teacher, student, spec, options.changes)
    scorer = ModelScorer(spec, labels, partial(progress, "scoring")) if labels else None
    before = scorer.reference(teacher) if scorer else None
    trained, report = _train(folder, teacher, student, spec, options, progress)
    after = scorer(trained) if scorer else None
    progress("writing", 0, 0)
    write(output, partial(save, trained))
    if options.state is None:
        shutil.rmtree(folder)
    name = str(recipe.model if isinstance(target, Recipe) else target)
    return DistillResult(name, output, report, before, after)


def _check(teacher: Model, student: Model | None, spec: DetectorSpec, changes: StudentOptions) -> None:
    """Raise ModelError, naming the node, if the student cannot learn from the teacher."""
    from edgesparse.training.lessons import Lesson

    original = student or teacher
    if changes.sparse:
        sparse_work(original, changes)
    changed = with_relu(original) if changes.relu else original
    lesson = Lesson.of(compared(teacher, changed, spec))
    for model in (teacher, changed):
        lesson.network(model)


def start_data(teacher: Model, spec: DetectorSpec, pixels: NDArray[np.uint8], folder: Path) -> StartData:
    """Return the data for a student's start: the images that are not held out of the training.

    `pixels`: as `PreparedLesson.write` takes them. What is stored in `folder` is not computed again.
    """
    from edgesparse.training.lessons import split

    batches = partial(network_inputs, pixels[split(len(pixels))[1]], spec.input)
    return StartData(batches, lambda some: object_masks(teacher, some, spec), box_reader(spec), folder)


def prepared(
    teacher: Model,
    student: Model | None,
    spec: DetectorSpec,
    changes: StudentOptions,
    data: StartData,
    progress: Progress,
) -> PreparedLesson:
    """Return the training of `student`, or of a copy of the teacher (None), from its start.

    Raises what `start` raises.
    """
    from edgesparse.training.steps import settings

    lesson = prepare_lesson(start(teacher, student, changes, data, progress), spec, changes)
    return replace(lesson, values={**settings(), **lesson.values})


def _train(
    folder: Path, teacher: Model, student: Model | None, spec: DetectorSpec, options: DistillOptions, progress: Progress
) -> tuple[Model, dict[str, Any]]:
    from edgesparse.training.distill import distill

    progress("reading images", 0, 0)
    pixels = np.concatenate([pixels_of(source, spec.input, options.count) for source in options.images])
    if len(pixels) < 2:
        raise ConfigError(f"found {len(pixels)} image, needed two or more: one judges, the others train")
    with storing(folder):
        make_folder(folder)
        data = start_data(teacher, spec, pixels, folder)
        prepared(teacher, student, spec, options.changes, data, progress).write(folder, pixels)
        distill(folder, progress)
    return read_result(folder)
