"""Calibration: the range of each activation for symmetric INT8, from images.

Images stream through ONNX Runtime, which leaves a histogram per tensor. A method sets the threshold `amax` from it;
`best` uses the threshold with the smallest measured error of all methods (`output_error`). The scale is amax / 127,
whether a tensor has one sign or both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from edgesparse.config import InputSpec
from edgesparse.errors import CalibrationError
from edgesparse.files import replace_text
from edgesparse.int8.observe import Observations, feed, observe, resolve
from edgesparse.int8.output_error import best
from edgesparse.int8.representative import unsettled
from edgesparse.int8.thresholds import METHODS
from edgesparse.model.activations import Batches, checked
from edgesparse.progress import Progress, quiet

FORMAT, VERSION = "edgesparse calibration", 1
REVISION = 2
"""Part of the key: increase it if a method changes its result for the same images."""
BEST = "best"
FLOOR = 127 * 2.0**-126
"""Smallest amax: its scale is the smallest normal float32."""


@dataclass(frozen=True)
class Range:
    """A tensor's smallest and largest value, and the threshold chosen. `error`: of `output_error.best`, if measured."""

    low: float
    high: float
    amax: float
    method: str
    error: float | None = None


@dataclass(frozen=True)
class Calibration:
    """`ranges`: tensor -> Range. `key`: hash of model, data and settings. `warnings`: problems with the data."""

    ranges: Mapping[str, Range]
    key: str
    images: int
    warnings: tuple[str, ...] = ()

    @property
    def amax(self) -> dict[str, float]:
        """The largest magnitude that INT8 holds, a float32 above 0, by tensor."""
        return {name: limits.amax for name, limits in self.ranges.items()}

    @property
    def scales(self) -> dict[str, float]:
        """amax / 127, as a float32, by tensor."""
        return {name: float(np.float32(amax) / np.float32(127)) for name, amax in self.amax.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return {
            "key": self.key,
            "images": self.images,
            "warnings": list(self.warnings),
            "tensors": {name: vars(limits) for name, limits in self.ranges.items()},
        }

    def save(self, path: Path) -> None:
        """Write a JSON file atomically."""
        content = self.as_dict()
        head = {"format": FORMAT, "version": VERSION, "sha256": _sum(content)}
        replace_text(path, json.dumps(head | content, indent=1))

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file written by `save`. Raises CalibrationError for a missing, damaged or foreign file."""
        try:
            content = json.loads(path.read_text())
            kind = content.pop("format"), content.pop("version")
        except FileNotFoundError:
            raise CalibrationError(f"no calibration {path}: calibrate first") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CalibrationError(f"{path} is not a calibration of edgesparse: calibrate again") from None
        if kind != (FORMAT, VERSION):
            name, version = ("".join(filter(str.isprintable, str(part)))[:40] for part in kind)
            raise CalibrationError(
                f"{path} is '{name}' version {version}: needed '{FORMAT}' {VERSION}; calibrate again"
            )
        if content.pop("sha256", None) != _sum(content):
            raise CalibrationError(f"{path} is damaged (its checksum differs): calibrate again")
        try:
            ranges = {name: Range(**limits) for name, limits in content["tensors"].items()}
            return cls(ranges, content["key"], content["images"], tuple(content["warnings"]))
        except (KeyError, TypeError, AttributeError):
            raise CalibrationError(f"{path} lacks fields of a calibration: calibrate again") from None


@dataclass(frozen=True)
class CalibrationOptions:
    """`method`: one of METHODS, or "best". `spec`: how pixels are converted to inputs, used to notice dark images.
    `saved`: a file of an earlier calibration, which is reused if its model, data and settings are the same.
    """

    method: str = BEST
    spec: InputSpec | None = None
    saved: Path | None = None


def calibrate(
    model: ModelProto,
    batches: Batches,
    options: CalibrationOptions | None = None,
    *,
    tensors: Collection[str] | None = None,
    progress: Progress = quiet,
) -> Calibration:
    """Measure the ranges of `tensors` (None: of `layer_inputs`) of `model` over the images of `batches`.

    Raises CalibrationError: no or bad images, an unknown method or tensor, NaN or infinity in a tensor, a damaged
    `saved`.
    """
    options = options or CalibrationOptions()
    method, spec, saved = options.method, options.spec, options.saved
    if method not in (BEST, *METHODS):
        raise CalibrationError(f"no calibration method {method!r}: known are {', '.join((*METHODS, BEST))}")
    names = resolve(model, tensors)
    settings = f"{VERSION}.{REVISION} {method} {sorted(names)} {spec}"
    if saved is not None and saved.exists():
        earlier = Calibration.load(saved)
        if earlier.key == _key(model, _data_hash(batches), settings):
            return earlier
    seen = observe(model, batches, names, spec, progress)
    ranges = choose(model, batches, seen, method, progress)
    return Calibration(ranges, _key(model, seen.data, settings), seen.images.count, tuple(_warnings(seen, ranges)))


def from_scales(scales: Mapping[str, float]) -> Calibration:
    """Return ranges from external scales, for example from a TensorRT table."""
    ranges = {name: 127 * float(np.float32(scale)) for name, scale in scales.items()}
    return Calibration({name: Range(-amax, amax, amax, "given") for name, amax in ranges.items()}, "", 0)


def choose(
    model: ModelProto,
    batches: Batches,
    seen: Observations,
    method: str,
    progress: Progress = quiet,
) -> dict[str, Range]:
    """Return the range of each observed tensor by `method`; "best" runs some of the images again."""
    thresholds = {
        name: {m: usable(METHODS[m](h)) for m in METHODS if method in (m, BEST)} for name, h in seen.histograms.items()
    }
    picks: Mapping[str, tuple[str, float | None]] = dict.fromkeys(thresholds, (method, None))
    if method == BEST:
        picks = best(model, batches, seen.batches, thresholds, progress)
    return {
        name: Range(h.low, h.high, thresholds[name][picks[name][0]], *picks[name])
        for name, h in seen.histograms.items()
    }


def usable(threshold: float) -> float:
    """Return a float32 whose scale is usable: 1 for a tensor of zeros, and never so small that 1 / scale overflows."""
    return float(np.float32(max(threshold, FLOOR))) if threshold else 1.0


def _warnings(seen: Observations, ranges: Mapping[str, Range]) -> Iterator[str]:
    yield from seen.images.warnings()
    yield from unsettled(seen.earlier, seen.histograms, seen.earlier_count)
    zeros = [name for name, limits in ranges.items() if limits.low == limits.high == 0]
    if zeros:
        more = f" and {len(zeros) - 1} more" if len(zeros) > 1 else ""
        yield f"{zeros[0]}{more} held only zeros: its range is set to 1; add images that it reacts to"


def _key(model: ModelProto, data: str, settings: str) -> str:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(f"{data} {settings}".encode())
    return digest.hexdigest()


def _data_hash(batches: Batches) -> str:
    digest = hashlib.sha256()
    for batch in checked(batches):
        feed(digest, batch)
    return digest.hexdigest()


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
