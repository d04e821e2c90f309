"""Prune a model file: to 2:4, by magnitude or reconstructed from images, or by removing channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from edgesparse.builder.confidence import shift_of
from edgesparse.builder.objects import box_reader, object_masks
from edgesparse.compress import narrow_page
from edgesparse.compress.narrow import BOARD, NarrowOptions, narrow
from edgesparse.compress.narrow_report import NarrowReport
from edgesparse.confidences import ConfidenceShift
from edgesparse.config import DetectorSpec, Recipe
from edgesparse.disk import check_folder
from edgesparse.errors import ConfigError
from edgesparse.model.activations import input_name
from edgesparse.model.load import Model, load, save
from edgesparse.pages.shifts import shift_tables
from edgesparse.predict import boards, fusion, roofline
from edgesparse.progress import Progress, quiet
from edgesparse.sparsity import page
from edgesparse.sparsity.prune import PruneReport
from edgesparse.sparsity.prune import prune as by_magnitude
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, reconstruct
from edgesparse.sparsity.reconstruct_report import ReconstructReport
from edgesparse.tasks.inputs import (
    ScoredModel,
    Target,
    as_recipe,
    check_images,
    check_numbers,
    need_torch,
    read_annotations,
    read_model,
)
from edgesparse.tasks.training import refiner
from edgesparse.tasks.writing import check_outputs, write

PruneMethod = Literal["magnitude", "reconstruct", "channels"]
Report = PruneReport | ReconstructReport | NarrowReport
Pruned = tuple[Model, Report, ConfidenceShift | None]


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """How a model is pruned.

    - `method`: `magnitude` keeps the two largest of four weights, and needs training afterwards. `reconstruct` refits
      each layer to its dense output on images, and needs no training. `channels` removes channels where that is
      predicted to save time, and refits the rest on images.
    - `layers`: names, None for every eligible layer, or "auto" for those that change the outputs least for the time
      they save; not for `channels`.
    - `permute`: for `magnitude`: reorder channels first, to keep more magnitude.
    - `names`: class names, 'coco' or a file, for a model without them.
    - `force`: overwrite existing files.

    For `reconstruct` and `channels` only:

    - `images`: folder, glob or video of images like those of the camera; `count` of them are used, evenly spaced.
    - `share`: prune this share (0 to 1) of the eligible multiply-accumulates, or save this share of the predicted time
      with `channels`; implies `layers="auto"`.
    - `max_drop`: lose at most this many points of mAP (0 to 100) on `annotations`; implies `layers="auto"`.
    - `device`: weigh layers by their predicted gain on this board, such as "orin-nano-8gb"; implies `layers="auto"`.
    - `steps`: for `reconstruct`: then train all weights together for at most this many steps, to match the original;
      needs PyTorch.
    - `annotations`: COCO JSON file, YOLO data.yaml, or a folder with one of them, to score on; `annotated_images`: the
      folder of the images, if they are not next to it.
    - `state`: folder for intermediate results: after an interruption, the same call continues from there.
    - `html`: file for a report per layer.
    """

    method: PruneMethod = "magnitude"
    layers: Sequence[str] | Literal["auto"] | None = None
    permute: bool = False
    images: str | Path | None = None
    count: int = 256
    share: float | None = None
    max_drop: float | None = None
    device: str | None = None
    steps: int = 0
    annotations: str | Path | None = None
    annotated_images: str | Path | None = None
    names: str | None = None
    state: str | Path | None = None
    html: str | Path | None = None
    force: bool = False

    @property
    def automatic(self) -> bool:
        """Whether layers are chosen automatically."""
        return self.layers == "auto" or any(x is not None for x in (self.share, self.max_drop, self.device))

    def check(self) -> None:
        """Raise ConfigError if options contradict each other."""
        if self.method not in PruneMethod.__args__:  # type: ignore[attr-defined]
            raise ConfigError(f"--method: found {self.method!r}, needed magnitude, reconstruct or channels")
        check_numbers(self.count, self.max_drop, self.share)
        self._check_layers()
        self._check_steps()
        if self.method == "magnitude":
            for name in _RECONSTRUCT:
                if getattr(self, name) is not None:
                    raise ConfigError(f"--{name.replace('_', '-')} needs --method reconstruct or channels")
        elif self.images is None:
            raise ConfigError(f"--method {self.method} needs --images: a folder of images like those of the camera")
        elif self.permute:
            raise ConfigError("--permute only applies to --method magnitude")
        if self.annotated_images is not None and self.annotations is None:
            raise ConfigError("--annotated-images needs --annotations")

    def _check_steps(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"--steps: found {self.steps}, needed 0 or more")
        if self.steps and self.method != "reconstruct":
            raise ConfigError(f"--steps needs --method reconstruct, found {self.method}")

    def _check_layers(self) -> None:
        if self.method == "channels" and self.layers is not None:
            raise ConfigError("--layers does not apply to --method channels, which chooses by itself: leave it out")
        if self.layers == "auto":
            if self.method == "magnitude":
                raise ConfigError("--layers auto needs --method reconstruct")
        elif isinstance(self.layers, str):
            raise ConfigError(f"--layers: found {self.layers!r}, needed a list of names, or 'auto'")
        elif self.layers is not None and "auto" in self.layers:
            raise ConfigError("--layers auto chooses layers: leave out the names")
        elif self.layers and self.automatic and self.method == "reconstruct":
            raise ConfigError(
                f"--layers {self.layers[0]} names what to prune: leave it out to choose layers automatically"
            )


_RECONSTRUCT = ("images", "annotations", "annotated_images", "share", "max_drop", "device", "state", "html")


@dataclass(frozen=True)
class PruneResult:
    """The pruned model's file, and the report on its layers."""

    model: str
    output: Path
    method: PruneMethod
    report: Report
    confidence: ConfidenceShift | None = None
    """How confidences shift from the original, on the images; None for `magnitude`, which takes no images."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return {
            "model": self.model,
            "output": str(self.output),
            "method": self.method,
            **self.report.as_dict(),
            "confidence": None if self.confidence is None else self.confidence.as_dict(),
        }


def prune_file(target: Target, output: Path, options: PruneOptions, progress: Progress = quiet) -> PruneResult:
    """Prune the model of `target` and write it to `output`. Raises ConfigError, ModelError, SourceError."""
    options.check()
    recipe = as_recipe(target, options.names)
    html = None if options.html is None else Path(options.html)
    check_outputs((output, html), options.force, _inputs(target, recipe))
    model, report, shift = _METHODS[options.method](recipe, options, progress)
    write(output, partial(save, model))
    if html is not None and not isinstance(report, PruneReport):
        name, more = recipe.model.name, shift_tables(shift, "", "the original")
        if isinstance(report, ReconstructReport):
            text = page.page(name, report, more)
        else:
            text = narrow_page.page(name, report, more)
        write(html, lambda path: path.write_text(text))
    shown = str(recipe.model if isinstance(target, Recipe) else target)
    return PruneResult(shown, output, options.method, report, shift)


def _inputs(target: Target, recipe: Recipe) -> list[Path]:
    return [recipe.model, *([] if isinstance(target, Recipe) else [Path(target)])]


def _magnitude(recipe: Recipe, options: PruneOptions, progress: Progress) -> tuple[Model, PruneReport, None]:
    progress("reading the model", 0, 0)
    model = load(recipe.model)
    progress("pruning", 0, 0)
    layers = None if options.layers is None else list(options.layers)
    return model, by_magnitude(model, layers, options.permute, progress), None


def _reconstruct(recipe: Recipe, options: PruneOptions, progress: Progress) -> Pruned:
    board = boards.board(options.device) if options.device else None
    if options.steps:
        need_torch("--steps")
    scored, state = _scored(recipe, options, progress)
    refine = refiner(scored, str(options.images), options.count, options.steps, progress) if options.steps else None
    model, spec = scored.model, scored.spec
    selection = ReconstructOptions(
        layers="auto" if options.automatic else (options.layers or None),
        max_drop=options.max_drop,
        share=options.share,
        gains=None if board is None else _gains(model, spec, board),
        state_dir=state,
    )
    task = replace(_task(scored), refine=refine)
    pruned, report = reconstruct(model, scored.images, selection, task, progress)
    return pruned, report, shift_of(model, pruned, scored.images, spec, progress)


def _channels(recipe: Recipe, options: PruneOptions, progress: Progress) -> Pruned:
    device = options.device or BOARD
    boards.board(device)
    scored, state = _scored(recipe, options, progress)
    limits = NarrowOptions(max_drop=options.max_drop, share=options.share, device=device, state_dir=state)
    pruned, report = narrow(scored.model, scored.images, limits, _task(scored), progress)
    return pruned, report, shift_of(scored.model, pruned, scored.images, scored.spec, progress)


def _scored(recipe: Recipe, options: PruneOptions, progress: Progress) -> tuple[ScoredModel, Path | None]:
    """Return the model with its images and scorer, and the folder for intermediate results. Raises ConfigError."""
    source = str(options.images)
    check_images(source)
    state = None if options.state is None else Path(options.state)
    if state is not None:
        check_folder(state)
    labels = read_annotations(options.annotations, options.annotated_images)
    return read_model(recipe, source, options.count, labels, progress, options.method == "channels"), state


def _task(scored: ScoredModel) -> Task:
    objects = object_masks(scored.model, scored.images, scored.spec)
    return Task(score=scored.scorer, read=box_reader(scored.spec), objects=objects)


def _gains(model: Model, spec: DetectorSpec, board: boards.Board) -> dict[str, float]:
    """Return the most milliseconds that 2:4 saves in each layer on a board, in FP16."""
    works = fusion.fused_layers(model, {input_name(model): (1, 3, *spec.input.size)})
    return {gain.name: gain.fp16_ms for gain in roofline.gains(roofline.predict_all(works, board))}


_METHODS: dict[PruneMethod, Callable[[Recipe, PruneOptions, Progress], Pruned]] = {
    "magnitude": _magnitude,
    "reconstruct": _reconstruct,
    "channels": _channels,
}
