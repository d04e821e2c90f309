"""INT8 that keeps its accuracy, without labels: a float model prepared for INT8, its scales and its Q/DQ form.

Cheapest steps first. Channels that depthwise layers read are equalized (`equalize`), ranges are calibrated, and biases
are set layer by layer on the inputs that each layer gets in INT8 (`bias_correction`). If that is not enough for the
allowed drop, the layers that lose most for their share of the work stay float, as few as possible (`sensitivity`). All
weights and ranges may then be trained together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt

from onnx import ModelProto

from edgesparse.errors import CalibrationError
from edgesparse.int8.bias_correction import Corrected, correct_biases
from edgesparse.int8.calibration import Calibration, CalibrationOptions, Range, calibrate, from_scales
from edgesparse.int8.equalize import Equalized, equalize
from edgesparse.int8.placement import Placement, QdqPlan, plan
from edgesparse.int8.quantize import TOP, QuantizeReport, calibrated_tensors, quantize, shared_scales
from edgesparse.int8.recover_report import RecoveredLayer, RecoverReport, RecoveryStep
from edgesparse.int8.sensitivity import Sensitivity, cheap, sensitivities
from edgesparse.knapsack import Choice, pick
from edgesparse.model.activations import Batches, spread
from edgesparse.model.check import require_finite
from edgesparse.model.outputs import Read, ReferenceOutputs
from edgesparse.progress import Progress, quiet
from edgesparse.refinement import Refinement, Trained

Score = Callable[[ModelProto], float]
"""The points, 0 to 100, that a model scores on labeled data; or 100 less the percent by which confidences shift."""
Train = Callable[[ModelProto, ModelProto, QdqPlan, Mapping[str, float], Progress], Trained]
"""Trains weights and scales in INT8 to match the float model: (float, the same with biases for INT8, where values are
rounded, the scale of each quantized tensor, progress) -> the result."""
IMAGES = 32
"""Number of batches, spread over all, for setting biases; the change of the outputs is measured on half as many."""

CHANGED = 0.03
"""Change of the outputs from which, without a limit on points, the layers that cause most of it stay float."""


@dataclass(frozen=True)
class RecoverOptions:
    """How to quantize.

    `keep`: layers that stay float. More layers stay float until at most `max_drop` points are lost, or `least` points
    are reached. `gains`: what INT8 saves in each layer, by name, in any unit; multiply-accumulates by default. `train`:
    then train all weights and scales together. `scales`: use these instead of calibrating; channels are then not
    equalized. `table`: also calibrate tensors that only TensorRT's calibration table lists. `exact`: without a limit on
    points, no layers but `keep` stay float. `shown`: how a score is written in messages.
    """

    calibration: CalibrationOptions = field(default_factory=lambda: CalibrationOptions("mse"))
    placement: Placement = "fuse"
    keep: Collection[str] = ()
    max_drop: float | None = None
    least: float | None = None
    gains: Mapping[str, float] | None = None
    train: Train | None = None
    scales: Mapping[str, float] | None = None
    table: bool = False
    exact: bool = False
    shown: Callable[[float], str] = "{:.1f} points".format

    @property
    def limited(self) -> bool:
        return self.max_drop is not None or self.least is not None


@dataclass(frozen=True)
class Recovered:
    """`model` is float, its channels equalized and its biases set for INT8; TensorRT's table belongs to it.

    `quantized` is `quantize(model, scales, placement, keep)`, which can write the other placement as well.
    """

    model: ModelProto
    scales: Mapping[str, float]
    keep: tuple[str, ...]
    quantized: ModelProto
    calibration: Calibration
    report: RecoverReport


def recover(
    model: ModelProto,
    batches: Batches,
    options: RecoverOptions | None = None,
    *,
    score: Score | None = None,
    progress: Progress = quiet,
) -> Recovered:
    """Return INT8 for `model`, calibrated on `batches`; `model` is not changed. Raises what `quantize` and `calibrate`
    raise; CalibrationError for a limit on points without `score`, or one that leaves no layer in INT8.
    """
    options = options or RecoverOptions()
    if score is None and options.limited:
        raise CalibrationError("a limit on the points lost needs labeled data to score on: pass some")
    require_finite(model)
    run = _Recovery(model, batches, options, score, progress, _reference(model, batches))
    every_step = options.least is None  # scoring may take minutes: with `least`, score only what decides
    reference = run.record("float (FP32)", model, every_step)
    allowed = options.least if options.max_drop is None else reference - options.max_drop
    model, calibration = run.calibrate()
    step = "ranges, even channels" if options.scales is None else "ranges from the table"
    run.record(step, run.quantized(model)[0], every_step)
    corrected, points = run.correct(model, "biases corrected")
    if allowed is not None and points < allowed:
        corrected = run.keep_float(model, allowed)
    elif allowed is None and not options.exact and run.steps[-1].change > CHANGED:
        corrected = run.keep_cheap(model, corrected)
    if options.train is not None:
        corrected = run.train(options.train, model, corrected, allowed)
    quantized, written = run.quantized(corrected.model)
    report = run.report(written, corrected, calibration)
    return Recovered(corrected.model, run.scales, run.keep, quantized, calibration, report)


def changes(
    model: ModelProto, batches: Batches, options: RecoverOptions, read: Read | None, progress: Progress = quiet
) -> list[Sensitivity]:
    """Return how INT8 in each layer alone changes the outputs or, with `read`, what it reads from them.

    Calibrates as `recover` does, and raises what `recover` raises.
    """
    require_finite(model)
    run = _Recovery(model, batches, options, None, progress, _reference(model, batches, read))
    equalized_model, *_ = run.calibrate()
    return sensitivities(equalized_model, run.quantized(equalized_model)[0], run.keep, run.outputs, progress)


def _reference(model: ModelProto, batches: Batches, read: Read | None = None) -> ReferenceOutputs:
    return ReferenceOutputs(model, spread(batches, IMAGES // 2), read)


@dataclass
class _Recovery:
    """One call of `recover`: its constant inputs, the steps so far, and which layers stay float."""

    model: ModelProto
    batches: Batches
    options: RecoverOptions
    score: Score | None
    progress: Progress
    outputs: ReferenceOutputs
    steps: list[RecoveryStep] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    ranked: Sequence[Sensitivity] = ()
    training: Refinement | None = None
    learned: Mapping[str, float] = field(default_factory=dict)
    """Scales from the training that are in `scales`."""
    warnings: tuple[str, ...] = ()
    costly: tuple[str, ...] = ()
    """The first of `ranked`: layers that stay float because they lose most. They are also in `keep`."""

    def __post_init__(self) -> None:
        self.equalized = Equalized(self.model, (), {})
        self.keep = tuple(self.options.keep)

    def calibrate(self) -> tuple[ModelProto, Calibration]:
        """Return the model with equalized channels, and the ranges; sets `scales`, `equalized` and `keep`."""
        if self.options.scales is not None:
            calibration = from_scales(self.options.scales)
            self.scales.update(calibration.scales)
            return self.model, calibration
        self.equalized = equalize(self.model, self.batches, self.keep, self.progress)
        self._choose(())
        model = self.equalized.model
        tensors = calibrated_tensors(model, self.keep, self.options.table)
        calibration = calibrate(model, self.batches, self.options.calibration, tensors=tensors, progress=self.progress)
        self.scales.update(calibration.scales)
        return model, calibration

    def quantized(self, model: ModelProto) -> tuple[ModelProto, QuantizeReport]:
        return quantize(model, self.scales, placement=self.options.placement, keep=self.keep)

    def record(self, what: str, model: ModelProto, scored: bool = True) -> float:
        """Measure `model` after the step `what`. Returns its points, or 0 without a score."""
        self.progress("scoring", 0, 0)
        points = self.score(model) if self.score and scored else None
        self.steps.append(RecoveryStep(what, self.outputs.change(model), points))
        return points or 0.0

    def correct(self, model: ModelProto, what: str) -> tuple[Corrected, float]:
        """Return `model` with biases set for the current INT8 layers, and its points."""
        some = spread(self.batches, IMAGES)
        corrected = correct_biases(model, self.scales, some, self.keep, self.progress, self.options.placement)
        return corrected, self.record(what, self.quantized(corrected.model)[0])

    def keep_float(self, model: ModelProto, allowed: float) -> Corrected:
        """Keep the costliest layers float, as few as `allowed` points take, with the biases set again in each trial.

        With gains, few layers are tried first: the knapsack finds those that matter.

        Raises CalibrationError if that leaves no layer in INT8.
        """
        self._rank(model)
        low, high, best = 0, len(self.ranked), None
        while high - low > 1:
            middle = (low + high) // 2 if self.options.gains is None else max(low + 1, isqrt(max(low, 1) * high))
            names = self._costliest(middle)
            if len(names) == len(self.ranked):  # nothing would be INT8
                high = middle
                continue
            corrected, points = self._with_float(model, names)
            if points >= allowed:
                high, best = middle, (corrected, self.steps[-1])
            else:
                low = middle
            self.steps.pop()
        if best is None:
            raise CalibrationError(f"no layer can be INT8 and leave {self.options.shown(allowed)}: allow more")
        self._choose(self._costliest(high))
        self.steps.append(best[1])
        return best[0]

    def _costliest(self, count: int) -> list[str]:
        """Return the first `count` of the ranked layers or, if their gains are known, those layers without which INT8
        gains the most and changes the outputs as little.
        """
        names, gains = [layer.name for layer in self.ranked], self.options.gains
        if gains is None:
            return names[:count]
        items = [[Choice(max(gains.get(layer.name, 0.0), 0.0), layer.change)] for layer in self.ranked]
        picks = pick(items, sum(layer.change for layer in self.ranked[count:]))
        return [name for name, at in zip(names, picks, strict=True) if at is None]

    def keep_cheap(self, model: ModelProto, corrected: Corrected) -> Corrected:
        """Without a score, keep the layers float that change the outputs most and cost next to nothing."""
        self._rank(model)
        names = cheap(self.ranked)
        return self._with_float(model, names)[0] if names else corrected

    def train(self, train: Train, model: ModelProto, corrected: Corrected, allowed: float | None) -> Corrected:
        """Return the model with trained weights, and its scales in `scales`: as before where that is not better on the
        images held out, or leaves less than `allowed` points.
        """
        qdq = plan(corrected.model, self.options.placement, self.keep)
        trained = train(model, corrected.model, qdq, shared_scales(qdq, self.scales), self.progress)
        before, self.training = dict(self.scales), trained.report
        if not trained.report.kept:
            return corrected
        self.scales.update(trained.scales)
        points = self.record("weights and ranges trained", self.quantized(trained.model)[0])
        if allowed is None or points >= allowed:
            self.learned = trained.scales
            return Corrected(trained.model, {})
        self.scales, shown = before, self.options.shown
        self.warnings += (f"trained weights not used: they leave {shown(points)}, needed {shown(allowed)}",)
        self.steps.pop()
        return corrected

    def _rank(self, model: ModelProto) -> None:
        ranked = sensitivities(model, self.quantized(model)[0], self.keep, self.outputs, self.progress)
        if (gains := self.options.gains) is not None:
            ranked = sorted(ranked, key=lambda layer: -layer.change / max(gains.get(layer.name, 0.0), 1e-12))
        self.ranked = ranked

    def _choose(self, names: Sequence[str]) -> None:
        self.costly = tuple(names)
        self.keep = (*self.options.keep, *self.equalized.uneven, *names)

    def _with_float(self, model: ModelProto, names: Sequence[str]) -> tuple[Corrected, float]:
        self._choose(names)
        return self.correct(model, f"kept in float: {len(names)} of {len(self.ranked)}")

    def report(self, written: QuantizeReport, corrected: Corrected, calibration: Calibration) -> RecoverReport:
        return RecoverReport(
            self.options.placement,
            written.share,
            tuple(self.steps),
            tuple(self._layers(written, corrected.errors)),
            self.equalized.tensors,
            {name: self._range(calibration.ranges[name], name) for name in written.scales},
            calibration.images,
            (*calibration.warnings, *self.warnings),
            self.training,
        )

    def _range(self, calibrated: Range, name: str) -> Range:
        if name not in self.learned:
            return calibrated
        return replace(calibrated, amax=TOP * self.learned[name], method="trained", error=None)

    def _layers(self, written: QuantizeReport, errors: Mapping[str, float]) -> Iterator[RecoveredLayer]:
        alone = {layer.name: layer.change for layer in self.ranked}
        for layer in written.layers:
            why = layer.why
            if layer.name in self.costly:
                why = "kept in float: loses most for its share of the work"
            elif layer.name in self.equalized.uneven:
                why = f"kept in float: the channels that it reads differ {self.equalized.uneven[layer.name]:.0f}-fold"
            measured = errors.get(layer.name), alone.get(layer.name)
            yield RecoveredLayer(layer.name, layer.int8, why, layer.macs, *measured)
