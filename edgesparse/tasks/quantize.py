"""Write a model file with Q/DQ for INT8, and TensorRT's calibration table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from edgesparse.builder.confidence import CorrectedConfidences, correct_confidences, shift_meter
from edgesparse.compress.cost import int8_gains
from edgesparse.confidences import ConfidenceShift
from edgesparse.config import Recipe
from edgesparse.disk import check_folder
from edgesparse.errors import CalibrationError, ConfigError, ModelError
from edgesparse.files import read_checked
from edgesparse.int8 import calibration_table, page
from edgesparse.int8.calibration import Calibration, CalibrationOptions
from edgesparse.int8.placement import Placement
from edgesparse.int8.recover import IMAGES, Recovered, RecoverOptions, Train, recover
from edgesparse.int8.recover_report import RecoverReport, RecoveryStep
from edgesparse.int8.representative import size_warnings
from edgesparse.model.activations import spread, stream
from edgesparse.model.load import Model, load, save
from edgesparse.model.outputs import ReferenceOutputs
from edgesparse.pages.shifts import shift_tables
from edgesparse.predict import boards
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.images import ImageBatches
from edgesparse.tasks.inputs import (
    ScoredModel,
    Target,
    as_recipe,
    check_images,
    check_numbers,
    need_torch,
    read_annotations,
    read_model,
    static_model,
)
from edgesparse.tasks.training import int8_trainer, refiner
from edgesparse.tasks.writing import check_outputs, write

OVER_LIMIT = "not corrected: with the correction more is lost than --max-drop or --min-map allows"
RangeMethod = Literal["best", "entropy", "percentile", "mse", "max"]


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How a model is quantized.

    - `images`: folder, glob or video of images like those of the camera; `count` of them calibrate, evenly
      spaced.
    - `placement`: `fuse` puts Q/DQ after the activations; `sparse` also directly after each 2:4 layer, where TensorRT's
      sparse INT8 kernels need it.
    - `method`: how ranges are chosen: best, entropy, percentile, mse or max.
    - `max_drop`: keep layers in float until at most this many points of mAP (0 to 100) are lost on `annotations`;
      `min_map`: until at least this many are reached.
    - `max_confidence_shift`: keep layers in float until confidences shift by at most this much (0 to 1, in the median)
      after their correction, on images that it was not fitted on; without labels.
    - `device`: keep those in float that cost least time for what they lose, as predicted for this board, such as
      "orin-nano-8gb"; without it, the time is taken as proportional to the multiply-accumulates.
    - `annotations`: COCO JSON file, YOLO data.yaml, or a folder with one of them, to score on; `annotated_images`: the
      folder of the images, if they are not next to it.
    - `keep`: names of layers that stay in float; `exact`: without a limit on points, no others do.
    - `calibration`: file of ranges: reused if it belongs to this model, these images and settings, else written.
    - `from_table`: take the ranges from TensorRT's calibration table of this model.
    - `table`: file for TensorRT's calibration table; the float model that it belongs to is written next to it, as
      TABLE.onnx.
    - `steps`: then train all weights and ranges for so many steps on the images, without labels; needs PyTorch.
    - `state`: folder that keeps the training's progress, so that an interrupted call continues.
    - `names`: class names, 'coco' or a file, for a model without them.
    - `html`: file for a report per layer.
    - `force`: overwrite existing files.
    """

    images: str | Path
    count: int = 160
    placement: Placement = "fuse"
    method: RangeMethod = "mse"
    max_drop: float | None = None
    min_map: float | None = None
    max_confidence_shift: float | None = None
    device: str | None = None
    annotations: str | Path | None = None
    annotated_images: str | Path | None = None
    keep: Sequence[str] = ()
    exact: bool = False
    steps: int = 0
    state: str | Path | None = None
    calibration: str | Path | None = None
    from_table: str | Path | None = None
    table: str | Path | None = None
    names: str | None = None
    html: str | Path | None = None
    force: bool = False

    def check(self) -> None:
        """Raise ConfigError if options contradict each other."""
        for option, value, choices in (
            ("--placement", self.placement, get_args(Placement)),
            ("--method", self.method, get_args(RangeMethod)),
        ):
            if value not in choices:
                raise ConfigError(f"{option}: found {value!r}, needed one of {', '.join(choices)}")
        check_numbers(self.count, self.max_drop)
        if self.annotations is None and not (self.max_drop is None and self.min_map is None):
            option = "--min-map" if self.max_drop is None else "--max-drop"
            raise ConfigError(f"{option} needs --annotations: annotated images to score on")
        self._check_shift()
        if self.annotated_images is not None and self.annotations is None:
            raise ConfigError("--annotated-images needs --annotations")
        if self.steps < 0:
            raise ConfigError(f"--steps: found {self.steps}, needed 0 or more")
        if self.state is not None and not self.steps:
            raise ConfigError("--state keeps the progress of --steps: pass --steps, or leave it out")
        if self.from_table is not None and self.calibration is not None:
            raise ConfigError("--from-table and --calibration: ranges can only come from one of them")

    def _check_shift(self) -> None:
        shift = self.max_confidence_shift
        if shift is not None and not 0 < shift <= 1:
            raise ConfigError(f"--max-confidence-shift: found {shift:g}, needed more than 0 and at most 1")
        if shift is not None and self.annotations is not None:
            raise ConfigError("--max-confidence-shift needs no labels: leave out --annotations, and any limit on mAP")


@dataclass(frozen=True)
class QuantizeResult:
    """`output` is the INT8 model with Q/DQ; `written` has every file, `output` first; `report` has layers and steps."""

    model: str
    output: Path
    written: tuple[Path, ...]
    report: RecoverReport
    confidence: ConfidenceShift | None = None
    """How confidences shift from the float model, on images that were not used to correct them."""
    uncorrected: ConfidenceShift | None = None
    """How they shifted before the correction; None if there was none."""
    not_corrected: str = ""
    """The reason for no correction."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        shift, before = (None if each is None else each.as_dict() for each in (self.confidence, self.uncorrected))
        more = {"confidence": shift, "confidence_uncorrected": before, "confidence_note": self.not_corrected}
        return {"model": self.model, "written": list(map(str, self.written)), **self.report.as_dict(), **more}


def quantize_file(target: Target, output: Path, options: QuantizeOptions, progress: Progress = quiet) -> QuantizeResult:
    """Quantize the model of `target` and write it to `output`.

    Raises ConfigError, ModelError, CalibrationError, SourceError.
    """
    options.check()
    recipe = as_recipe(target, options.names)
    table, html, calibration = map(_path, (options.table, options.html, options.calibration))
    owner = table.with_name(f"{table.name}.onnx") if table else None
    inputs = [recipe.model, *([] if isinstance(target, Recipe) else [Path(target)])]
    check_outputs((output, table, owner, html), options.force, inputs)
    check_outputs((calibration,), True, [*inputs, output])
    result, scored = _recover(recipe, options, progress)
    corrected = _corrected(scored, result, options, progress)
    result, images, shift = corrected.result, scored.images, corrected.after
    progress("writing", 0, 0)
    write(output, partial(_save_checked, result.quantized, images))
    written = [output]
    if table is not None and owner is not None:
        write(owner, partial(save, result.model))
        write(table, lambda path: path.write_bytes(calibration_table.write(result.scales)))
        written += [table, owner]
    report = result.report
    if calibration is not None:
        if not calibration.exists() or options.force:
            write(calibration, result.calibration.save)
            written.append(calibration)
        elif Calibration.load(calibration).key != result.calibration.key:
            unused = f"{calibration} belongs to another model, images or settings: not used; pass --force to replace it"
            report = replace(report, warnings=(unused, *report.warnings))
    if html is not None:
        text = page.page(recipe.model.name, report, shift_tables(shift, corrected.note))
        write(html, lambda path: path.write_text(text))
        written.append(html)
    name = str(recipe.model if isinstance(target, Recipe) else target)
    before = None if corrected.why else corrected.before
    return QuantizeResult(name, output, tuple(written), report, shift, before, corrected.why)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _recover(recipe: Recipe, options: QuantizeOptions, progress: Progress) -> tuple[Recovered, ScoredModel]:
    source, scales = str(options.images), _scales(_path(options.from_table))
    check_images(source)
    if options.steps:
        need_torch("--steps")
    board = None if options.device is None else boards.board(options.device)
    labels = read_annotations(options.annotations, options.annotated_images)
    scored = read_model(recipe, source, options.count, labels, progress)
    gains = None if board is None else int8_gains(static_model(recipe)[0], board)
    input_spec = scored.spec.input
    train = _training(scored, options, progress) if options.steps else None
    score, limit = _limit(scored, options, progress)
    result = recover(
        scored.model,
        scored.images,
        replace(
            limit,
            calibration=CalibrationOptions(options.method, input_spec, _path(options.calibration)),
            placement=options.placement,
            keep=tuple(options.keep),
            gains=gains,
            train=train,
            scales=scales,
            table=options.table is not None,
            exact=options.exact,
        ),
        score=score,
        progress=progress,
    )
    report = result.report
    if options.max_confidence_shift is not None:  # the steps' scores are no mAP
        report = replace(report, steps=tuple(replace(step, score=None) for step in report.steps))
    warnings = (*size_warnings(scored.images.sizes, input_spec), *report.warnings)
    return replace(result, report=replace(report, warnings=warnings)), scored


def _limit(
    scored: ScoredModel, options: QuantizeOptions, progress: Progress
) -> tuple[Callable[[Model], float] | None, RecoverOptions]:
    """Return what scores a model, and how much of the score must be left."""
    if options.max_confidence_shift is None:
        return scored.scorer, RecoverOptions(max_drop=options.max_drop, least=options.min_map)
    measure, least = shift_meter(scored.model, scored.images, scored.spec, progress), 1 - options.max_confidence_shift
    limit = RecoverOptions(least=100 * least, shown=lambda points: f"a shift of {1 - points / 100:.3f}")
    return lambda model: 100 * (1 - measure(model)), limit


def _training(scored: ScoredModel, options: QuantizeOptions, progress: Progress) -> Train:
    """Return what trains weights and ranges. Raises ConfigError, and what `refiner` raises."""
    folder = _path(options.state)
    if folder is not None:
        check_folder(folder)
    prepared = refiner(scored, str(options.images), options.count, options.steps, progress)
    if folder is None:
        return int8_trainer(prepared)
    folder.mkdir(parents=True, exist_ok=True)
    return int8_trainer(prepared, folder / "training.pt")


def _corrected(
    scored: ScoredModel, result: Recovered, options: QuantizeOptions, progress: Progress
) -> CorrectedConfidences:
    """Correct confidences, unless that loses more than the limits allow; the report gets a step for it."""
    corrected = correct_confidences(scored.model, result, scored.images, scored.spec, progress)
    if corrected.why or corrected.after is None:
        return corrected
    quantized, steps = corrected.result.quantized, result.report.steps
    points = scored.scorer(quantized) if scored.scorer else None
    if points is not None and points < _least(options, steps[0].score):
        return CorrectedConfidences(result, corrected.before, corrected.before, OVER_LIMIT)
    change = ReferenceOutputs(scored.model, spread(scored.images, IMAGES // 2)).change(quantized)
    step = RecoveryStep("confidences corrected", change, points)
    report = replace(result.report, steps=(*steps, step))
    return replace(corrected, result=replace(corrected.result, report=report))


def _least(options: QuantizeOptions, before: float | None) -> float:
    """The points that must be left; `before`: those of the float model."""
    return max(options.min_map or 0.0, 0.0 if options.max_drop is None else (before or 0.0) - options.max_drop)


def _scales(path: Path | None) -> dict[str, float] | None:
    """Return the scales in a TensorRT calibration table. Raises CalibrationError, naming it, if it cannot be read."""
    if path is None:
        return None
    try:
        return dict(calibration_table.read(read_checked(path)).scales)
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {error.strerror}") from None
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None


def _save_checked(model: Model, images: ImageBatches, path: Path) -> None:
    """Save the model, read it back and run it on one image.

    Raises ModelError if ONNX Runtime cannot run it or its outputs are not finite.
    """
    save(model, path)
    outputs = [value.name for value in model.graph.output]
    for values in stream(load(path), lambda: islice(images(), 1), outputs):
        if not all(np.isfinite(value).all() for value in values.values()):
            raise ModelError("the INT8 model's outputs hold NaN or infinity: keep layers in float with --keep")
