"""Confidences of an INT8 model, brought back to those of the float model where the head allows it exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from edgesparse.confidences import ConfidenceShift
from edgesparse.config import DetectorSpec
from edgesparse.errors import CalibrationError
from edgesparse.int8.quantize import quantize
from edgesparse.int8.recover import Recovered
from edgesparse.int8.score_layers import ScoreLayer, mapped, score_layers
from edgesparse.model.load import Model
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.agree import Pair
from edgesparse.runtime.confidence_map import ConfidenceMap, fit, identity
from edgesparse.runtime.confidence_shift import LOW, confidence_shift, paired
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.evaluate import opened
from edgesparse.runtime.heads.registry import head
from edgesparse.runtime.images import ImageBatches

IMAGES = 160
"""Most images to compare: two thirds to fit on, the others to check the result on."""
COMPARED = 64
"""Most images to report the shift on where nothing is fitted."""
ROUNDS = 3
"""Fits, each on the result of the one before: where a confidence is a product, one fit takes only part of the shift."""
CHECKED = 3
"""Each CHECKED-th image is for the check."""
LOWEST = 0.1
"""Confidence from which boxes are matched for the fit."""
NOT_EXACT = "not corrected: no exact way for this head (needed: a Sigmoid after float layers, apart from the boxes)"
TOO_FEW = "not corrected: too few boxes on the images to fit a correction and to check it; pass more images"
NO_BETTER = "not corrected: no scale and offsets lower the shift, on images to fit and on others to check"


def shift_of(
    model: Model, changed: Model, images: ImageBatches, spec: DetectorSpec, progress: Progress = quiet
) -> ConfidenceShift | None:
    """Return how `changed` shifts the confidences of `model`, on up to COMPARED images that were read before. None if
    `model` detects nothing on them.
    """
    with opened(model, spec, LOW) as before, opened(changed, spec, LOW) as after:

        def pairs() -> Iterator[Pair]:
            for done, frame in enumerate(images.frames(COMPARED), 1):
                yield before(frame), after(frame)
                progress("comparing confidences", done, 0)

        return confidence_shift(pairs(), spec.classes)


@dataclass(frozen=True)
class CorrectedConfidences:
    """`result`: with the correction, if it lowers the shift. `before` and `after`: the shift on images that were not
    used to fit; equal if nothing was corrected, and `why` then says why.
    """

    result: Recovered
    before: ConfidenceShift | None
    after: ConfidenceShift | None
    why: str = ""

    @property
    def note(self) -> str:
        """Return what was corrected, or why nothing was, as a sentence without a full stop."""
        if self.before is None or self.why:
            return self.why
        return f"corrected per class: {self.before.median:.3f} (median), {self.before.change:+.3f} with the sign before"


def correct_confidences(
    model: Model, result: Recovered, images: ImageBatches, spec: DetectorSpec, progress: Progress = quiet
) -> CorrectedConfidences:
    """Return `result`, INT8 of `model`, with its head's last weights and biases changed so that confidences match.

    No labels are needed. Boxes stay as they are; each class's confidences keep their order where a confidence is one
    Sigmoid.
    """
    layers = _exact_layers(result.quantized, images, spec)
    if not layers:
        return _uncorrected(model, result, images, spec, NOT_EXACT, progress)
    work = _Comparison(model, images, spec, progress)
    fit = work.corrected(result.quantized, layers)
    if fit is None:
        return _uncorrected(model, result, images, spec, TOO_FEW, progress)
    if fit.best is None:
        return CorrectedConfidences(result, fit.before, fit.before, NO_BETTER)
    floats = mapped(result.model, layers, fit.best.scale, fit.best.offsets)
    report = result.report
    quantized, _ = quantize(floats, result.scales, placement=report.placement, keep=result.keep)
    return CorrectedConfidences(replace(result, model=floats, quantized=quantized), fit.before, fit.after)


def shift_meter(
    model: Model, images: ImageBatches, spec: DetectorSpec, progress: Progress = quiet
) -> Callable[[Model], float]:
    """Return what measures by how much an INT8 form of `model` shifts confidences (median, 0 to 1) after their
    correction, as `correct_confidences` reports it; 1 if it detects none of the objects.

    It reads images that were read before, and raises CalibrationError if `model` detects nothing on them.
    """

    @cache
    def comparison() -> _Comparison:
        work = _Comparison(model, images, spec, progress)
        if not work.detects:
            raise CalibrationError("the float model detects nothing on the images: pass images with objects")
        return work

    def measure(quantized: Model) -> float:
        work = comparison()
        layers = _exact_layers(quantized, images, spec)
        fit = work.corrected(quantized, layers) if layers else None
        shift = fit.after if fit is not None else shift_of(model, quantized, images, spec, progress)
        return 1.0 if shift is None else shift.median

    return measure


def _exact_layers(quantized: Model, images: ImageBatches, spec: DetectorSpec) -> list[ScoreLayer]:
    """The layers to change; none beside keypoints, since their visibility may be a Sigmoid like that of one class."""
    return [] if head(spec.head).task == "pose" else score_layers(quantized, images, len(spec.classes))


def _uncorrected(
    model: Model, result: Recovered, images: ImageBatches, spec: DetectorSpec, why: str, progress: Progress
) -> CorrectedConfidences:
    """Return `result` with its shift on all images, of which none were used to fit."""
    shift = shift_of(model, result.quantized, images, spec, progress)
    return CorrectedConfidences(result, shift, shift, why if shift is not None else "")


@dataclass(frozen=True)
class _Fit:
    """The best map, None if none lowers the shift, and the shift on the images for the check before and after it."""

    best: ConfidenceMap | None
    before: ConfidenceShift
    after: ConfidenceShift


class _Comparison:
    """The float model's detections on the images, and those of changed models to compare with them."""

    def __init__(self, model: Model, images: ImageBatches, spec: DetectorSpec, progress: Progress) -> None:
        self._images, self._spec, self._progress = images, spec, progress
        self._float = self.detections(model)

    @property
    def detects(self) -> bool:
        """Whether the float model detects anything."""
        return any(map(len, self._float))

    def detections(self, model: Model) -> list[Detections]:
        detections = list[Detections]()
        with opened(model, self._spec, LOW) as detector:
            for done, frame in enumerate(self._images.frames(IMAGES), 1):
                detections.append(detector(frame))
                self._progress("comparing confidences", done, 0)
        return detections

    def shift(self, changed: Iterable[Detections]) -> ConfidenceShift | None:
        """Return the shift on the images for the check."""
        return confidence_shift(self._pairs(changed, True), self._spec.classes)

    def corrected(self, quantized: Model, layers: list[ScoreLayer]) -> _Fit | None:
        """Return the map for `quantized`, if it lowers the shift on all images; None for too few boxes."""
        plain = self.detections(quantized)
        before = self.shift(plain)
        if before is None or self.fitted(plain) is None:
            return None
        best = self.fit(quantized, layers, plain)
        if best is None:
            return _Fit(None, before, before)
        after = self.shift(self.detections(mapped(quantized, layers, best.scale, best.offsets)))
        if after is None or after.median >= before.median or after.lost > before.lost:
            return _Fit(None, before, before)
        return _Fit(best, before, after)

    def fit(self, quantized: Model, layers: list[ScoreLayer], plain: list[Detections]) -> ConfidenceMap | None:
        """Return the best map of all rounds by the shift on the images for the fit; None if none lowers it."""
        least, best, total, detections = self._size(plain), None, identity(len(self._spec.classes)), plain
        for _ in range(ROUNDS):
            if (more := self.fitted(detections)) is None:
                break
            total = more.after(total)
            detections = self.detections(mapped(quantized, layers, total.scale, total.offsets))
            if (size := self._size(detections)) >= least:
                break
            least, best = size, total
        return best

    def fitted(self, changed: list[Detections]) -> ConfidenceMap | None:
        """Return the map for the images for the fit; None if they have too few boxes."""
        return fit(paired(self._pairs(changed, False), LOWEST), len(self._spec.classes))

    def _size(self, changed: list[Detections]) -> float:
        shift = confidence_shift(self._pairs(changed, False), self._spec.classes)
        return 1.0 if shift is None else shift.median

    def _pairs(self, changed: Iterable[Detections], check: bool) -> Iterator[Pair]:
        for at, pair in enumerate(zip(self._float, changed, strict=True)):
            if check == (at % CHECKED == CHECKED - 1):
                yield pair
