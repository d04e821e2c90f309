"""INT8 that keeps its accuracy, without training: a float model made ready for its grids, and all that goes with it.

Simplest first. Channels of what depthwise layers read are made even (`equalise`), ranges are calibrated, weights are
rounded and biases set layer by layer on what the INT8 network really feeds them (`refine`). Where that is not enough
for `max_drop`, the layers that cost most for their work stay float, as few as the score allows (`sensitivity`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgesparse.config import InputSpec
from edgesparse.errors import CalibrationError
from edgesparse.graph.activations import Batches, spread
from edgesparse.graph.calibration import Calibration, calibrate
from edgesparse.graph.choose import Outputs
from edgesparse.graph.equalise import equalise
from edgesparse.graph.observe import quiet
from edgesparse.graph.placement import Placement
from edgesparse.graph.quantize import QuantizeReport, quantised_tensors, quantize
from edgesparse.graph.recovered import RecoveredLayer, RecoverReport, Step
from edgesparse.graph.refine import Progress, Refined, RefinedLayer, refine
from edgesparse.graph.sensitivity import Sensitivity, restored, sensitivities
from edgesparse.graph.wiring import Wiring

Score = Callable[[ModelProto], float]
"""Points, 0..100: what a model scores on labelled data."""
PICTURES = 32
"""Batches that weights are rounded on, spread over all."""


@dataclass(frozen=True)
class Recovered:
    """`model` is float, with its INT8 layers' weights on the grids of `weight_scales`; TensorRT's table belongs to it.

    `quantised` is `quantize(model, scales, placement, keep, weight_scales)`, which gives the other placement as well.
    """

    model: ModelProto
    scales: Mapping[str, float]
    weight_scales: Mapping[str, npt.NDArray[np.float32]]
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
    table: bool = False,
    spec: InputSpec | None = None,
    saved: Path | None = None,
    progress: Progress = quiet,
) -> Recovered:
    """INT8 for `model` from the pictures of `batches`; `model` stays as it is.

    `method`, `spec` and `saved` as `calibrate` has them; `table` calibrates also what only TensorRT's table holds. The
    layers `keep` stay float, and as many more as it takes to lose at most `max_drop` points by `score`.
    Raises as `quantize` and `calibrate`; CalibrationError for `max_drop` without `score`, or one that allows no INT8.
    """
    if max_drop is not None and score is None:
        raise CalibrationError("a limit on the lost points needs labelled data to score on: give some")
    job = _Job(model, batches, placement, tuple(keep), score, progress)
    job.note("float (FP32)", model)
    even, equalised = equalise(model, batches, keep, progress)
    found = calibrate(
        even, batches, method=method, tensors=_tensors(even, keep, table), spec=spec, saved=saved, progress=progress
    )
    job.scales.update(found.scales)
    job.note("ranges, even channels", job.quantised(even, job.keep)[0])
    done = job.refine(even, job.keep)
    keep, alone = job.keep, dict[str, float]()
    if max_drop is not None and job.drop > max_drop:
        ranked = sensitivities(even, job.quantised(even, keep)[0], keep, job.outputs, progress)
        alone = {layer.name: layer.change for layer in ranked}
        done, keep = job.mix(even, done, ranked, max_drop)
    quantised, written = job.quantised(done.model, keep, done)
    ranges = {name: found.ranges[name] for name in written.scales}
    report = RecoverReport(
        placement,
        written.share,
        tuple(job.steps),
        tuple(_layers(written, done.layers, alone, job.chosen)),
        equalised,
        ranges,
        found.pictures,
        found.warnings,
    )
    return Recovered(done.model, job.scales, done.weight_scales, tuple(keep), quantised, found, report)


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


def _layers(
    written: QuantizeReport, refined: Sequence[RefinedLayer], alone: Mapping[str, float], chosen: Collection[str]
) -> list[RecoveredLayer]:
    errors = {layer.name: (layer.error, layer.nearest) for layer in refined}
    rows = []
    for layer in written.layers:
        why = "kept in float: costs most for its work" if layer.name in chosen else layer.why
        error, nearest = errors.get(layer.name, (None, None)) if layer.int8 else (None, None)
        rows.append(RecoveredLayer(layer.name, layer.int8, why, layer.macs, error, nearest, alone.get(layer.name)))
    return rows


@dataclass
class _Job:
    """One call of `recover`: what stays the same, and the steps so far."""

    model: ModelProto
    batches: Batches
    placement: Placement
    keep: tuple[str, ...]
    score: Score | None
    progress: Progress
    steps: list[Step] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.outputs = Outputs(self.model, spread(self.batches, PICTURES // 2))

    @property
    def drop(self) -> float:
        """Points lost so far, by `score`."""
        return (self.steps[0].score or 0.0) - (self.steps[-1].score or 0.0)

    def quantised(
        self, model: ModelProto, keep: Collection[str], refined: Refined | None = None
    ) -> tuple[ModelProto, QuantizeReport]:
        weight_scales = refined.weight_scales if refined else None
        return quantize(model, self.scales, placement=self.placement, keep=keep, weight_scales=weight_scales)

    def note(self, what: str, model: ModelProto) -> float:
        """Measure `model` as it is after the step `what`; returns its points, or nought where there is no score."""
        self.progress("scoring", 0, 0)
        points = self.score(model) if self.score else None
        self.steps.append(Step(what, self.outputs.change(model), points))
        return points or 0.0

    def refine(self, even: ModelProto, keep: Collection[str], what: str = "weights and biases fitted") -> Refined:
        done = refine(even, self.scales, spread(self.batches, PICTURES), keep, self.progress, placement=self.placement)
        self.note(what, self.quantised(done.model, keep, done)[0])
        return done

    def mix(
        self, even: ModelProto, done: Refined, ranked: Sequence[Sensitivity], max_drop: float
    ) -> tuple[Refined, tuple[str, ...]]:
        """Keep the first of `ranked` in float, as few as `max_drop` allows, by bisection; the rest is fitted anew.

        Raises CalibrationError where that leaves none in INT8.
        """
        assert self.score is not None
        names = [layer.name for layer in ranked]
        allowed = (self.steps[0].score or 0.0) - max_drop
        low, high, passed = 0, len(names), done
        while high - low > 1:
            middle = (low + high) // 2
            self.progress("choosing layers to keep in float", 0, 0)
            mixed = replace(done, model=restored(done.model, even, names[:middle]))
            points = self.score(self.quantised(mixed.model, [*self.keep, *names[:middle]], mixed)[0])
            low, high, passed = (low, middle, mixed) if points >= allowed else (middle, high, passed)
        if high == len(names):
            raise CalibrationError(
                f"no layer can be INT8 within {max_drop:g} points: allow more, or give more pictures"
            )
        self.chosen = tuple(names[:high])
        keep, what = (*self.keep, *self.chosen), f"kept in float: {high} of {len(names)}"
        fitted = self.refine(even, keep, what)
        if self.drop <= max_drop:
            return fitted, keep
        self.steps.pop()  # fitted for fewer layers in float, it did better
        self.note(what, self.quantised(passed.model, keep, passed)[0])
        return passed, keep
