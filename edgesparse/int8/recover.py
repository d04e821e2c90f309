"""INT8 that keeps its accuracy, without training: a float model made ready for INT8, and all that goes with it.

Simplest first. Channels of what depthwise layers read are made even (`equalise`), ranges are calibrated, biases are set
layer by layer on what the INT8 network really feeds them (`bias_correction`). Where that is not enough for `max_drop`,
the layers that cost most for their work stay float, as few as the score allows (`sensitivity`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from edgesparse.config import InputSpec
from edgesparse.errors import CalibrationError
from edgesparse.int8.bias_correction import Corrected, correct_biases
from edgesparse.int8.calibration import Calibration, calibrate, given
from edgesparse.int8.equalise import Equalised, equalise
from edgesparse.int8.placement import Placement
from edgesparse.int8.quantize import QuantizeReport, quantised_tensors, quantize
from edgesparse.int8.recovery import RecoveredLayer, RecoverReport, Step
from edgesparse.int8.sensitivity import Sensitivity, sensitivities
from edgesparse.model.activations import Batches, spread
from edgesparse.model.outputs import Outputs
from edgesparse.model.wiring import Wiring
from edgesparse.progress import Progress, quiet

Score = Callable[[ModelProto], float]
"""Points, 0..100: what a model scores on labelled data."""
IMAGES = 32
"""Batches that biases are set on, spread over all; on half as many the change of the outputs is measured."""


@dataclass(frozen=True)
class Recovered:
    """`model` is float, its channels even and its biases set for INT8; TensorRT's table belongs to it.

    `quantised` is `quantize(model, scales, placement, keep)`, which gives the other placement as well.
    """

    model: ModelProto
    scales: Mapping[str, float]
    keep: tuple[str, ...]
    quantised: ModelProto
    calibration: Calibration
    report: RecoverReport


def recover(
    model: ModelProto,
    batches: Batches,
    *,
    method: str = "mse",
    placement: Placement = "fuse",
    keep: Collection[str] = (),
    score: Score | None = None,
    max_drop: float | None = None,
    least: float | None = None,
    scales: Mapping[str, float] | None = None,
    table: bool = False,
    spec: InputSpec | None = None,
    saved: Path | None = None,
    progress: Progress = quiet,
) -> Recovered:
    """INT8 for `model` from the images of `batches`; `model` stays as it is.

    `method`, `spec` and `saved` as `calibrate` has them; where `scales` are given they are taken instead, and channels
    stay as they are. `table` calibrates also what only TensorRT's table holds. The layers `keep` stay float, and as
    many more as it takes to lose at most `max_drop` points by `score`, or to have `least`.
    Raises as `quantize` and `calibrate`; CalibrationError for a limit without `score`, or one that allows no INT8.
    """
    if score is None and (max_drop is not None or least is not None):
        raise CalibrationError("a limit on the lost points needs labelled data to score on: give some")
    job = _Job(model, batches, placement, tuple(keep), score, progress)
    follow = least is None  # else only what decides is scored: scoring may take minutes
    first = job.note("float (FP32)", model, follow)
    allowed = first - max_drop if max_drop is not None else least
    if scales is None:
        even, equalised = equalise(model, batches, keep, progress)
        names = _tensors(even, keep, table)
        found = calibrate(even, batches, method=method, tensors=names, spec=spec, saved=saved, progress=progress)
    else:
        even, equalised, found = model, (), given(scales)
    job.scales.update(found.scales)
    job.note("ranges, even channels" if scales is None else "ranges as given", job.quantised(even)[0], follow)
    done, points = job.correct(even, "biases corrected")
    if allowed is not None and points < allowed:
        done = job.mix(even, done, allowed)
    quantised, written = job.quantised(done.model)
    report = job.report(written, done, equalised, found)
    return Recovered(done.model, job.scales, job.keep, quantised, found, report)


def _tensors(model: ModelProto, keep: Collection[str], table: bool) -> list[str]:
    """What either placement quantises, and for TensorRT's table all that leads there.

    Behind that stand the head's outputs and the decoding, which lose most in INT8: without a range they stay float.
    """
    names = {name for placement in ("fuse", "sparse") for name in quantised_tensors(model, placement, keep)}
    # which input of an addition is the shortcut depends on which layers are INT8
    names.update(name for node in model.graph.node if node.op_type == "Add" for name in node.input)
    wiring = Wiring(model.graph)
    todo, found = list(names), set[str]()
    while todo:
        name = todo.pop()
        if name and name not in found and not wiring.is_constant(name):
            found.add(name)
            todo.extend(wiring.producer[name].input if table and name in wiring.producer else ())
    made = [value.name for value in model.graph.input] + [out for node in model.graph.node for out in node.output]
    return [name for name in made if name in found]


@dataclass
class _Job:
    """One call of `recover`: what stays the same, the steps so far, and which layers stay float."""

    model: ModelProto
    batches: Batches
    placement: Placement
    keep: tuple[str, ...]
    score: Score | None
    progress: Progress
    steps: list[Step] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    ranked: Sequence[Sensitivity] = ()
    chosen: tuple[str, ...] = ()
    """The first of `ranked`, which are in `keep` too."""

    def __post_init__(self) -> None:
        self.outputs = Outputs(self.model, spread(self.batches, IMAGES // 2))

    def quantised(self, model: ModelProto, more: Sequence[str] = ()) -> tuple[ModelProto, QuantizeReport]:
        return quantize(model, self.scales, placement=self.placement, keep=(*self.keep, *more))

    def note(self, what: str, model: ModelProto, scored: bool = True) -> float:
        """Measure `model` as it is after the step `what`; returns its points, or nought where there is no score."""
        self.progress("scoring", 0, 0)
        points = self.score(model) if self.score and scored else None
        self.steps.append(Step(what, self.outputs.change(model), points))
        return points or 0.0

    def correct(self, even: ModelProto, what: str) -> tuple[Corrected, float]:
        """`even` with its biases set for the layers that are INT8 now, and its points."""
        some = spread(self.batches, IMAGES)
        done = correct_biases(even, self.scales, some, self.keep, self.progress, self.placement)
        return done, self.note(what, self.quantised(done.model)[0])

    def mix(self, even: ModelProto, done: Corrected, allowed: float) -> Corrected:
        """Keep the layers that cost most in float, as few as `allowed` points take, and set the biases anew.

        Raises CalibrationError where that leaves none in INT8.
        """
        rounded = self.quantised(even)[0]
        self.ranked = sensitivities(even, rounded, self.keep, self.outputs, self.progress)
        names = [layer.name for layer in self.ranked]
        count = self._fewest(done, names, allowed)
        if count == len(names):
            raise CalibrationError(f"no layer can be INT8 and leave {allowed:.1f} points: allow more")
        self.chosen, what = tuple(names[:count]), f"kept in float: {count} of {len(names)}"
        self.keep = (*self.keep, *self.chosen)
        again, points = self.correct(even, what)
        if points >= allowed:
            return again
        self.steps.pop()  # with the biases for fewer layers in float it did better
        self.note(what, self.quantised(done.model)[0])
        return done

    def _fewest(self, done: Corrected, names: Sequence[str], allowed: float) -> int:
        """How many of the first of `names` must be float, by bisection; all of them are never tried."""
        assert self.score is not None
        low, high = 0, len(names)
        while high - low > 1:
            middle = (low + high) // 2
            self.progress("choosing layers to keep in float", 0, 0)
            points = self.score(self.quantised(done.model, names[:middle])[0])
            low, high = (low, middle) if points >= allowed else (middle, high)
        return high

    def report(
        self, written: QuantizeReport, done: Corrected, equalised: tuple[Equalised, ...], found: Calibration
    ) -> RecoverReport:
        return RecoverReport(
            self.placement,
            written.share,
            tuple(self.steps),
            tuple(self._layers(written, done.errors)),
            equalised,
            {name: found.ranges[name] for name in written.scales},
            found.images,
            found.warnings,
        )

    def _layers(self, written: QuantizeReport, errors: Mapping[str, float]) -> Iterator[RecoveredLayer]:
        alone = {layer.name: layer.change for layer in self.ranked}
        for layer in written.layers:
            why = "kept in float: costs most for its work" if layer.name in self.chosen else layer.why
            measured = errors.get(layer.name), alone.get(layer.name)
            yield RecoveredLayer(layer.name, layer.int8, why, layer.macs, *measured)
