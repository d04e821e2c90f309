"""INT8 from a float model and images, calibrated once and written in every form that candidates are built from."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from edgesparse.builder.child.job import Int8Files, QuantizeJob, ScoreTarget
from edgesparse.builder.confidence import correct_confidences
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.device import state_folder
from edgesparse.errors import ModelError
from edgesparse.int8 import calibration_table
from edgesparse.int8.calibration import CalibrationOptions
from edgesparse.int8.placement import Placement
from edgesparse.int8.quantize import quantize
from edgesparse.int8.recover import RecoverOptions, recover
from edgesparse.int8.representative import size_warnings
from edgesparse.model import load as models
from edgesparse.package.manifest import sha256
from edgesparse.progress import Progress
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.images import ImageBatches, image_files
from edgesparse.runtime.labels.read import Labels, files_of
from edgesparse.version import VERSION

REVISION = 7
"""Part of the cache key: increase it if INT8 changes its result for the same input."""
PLACEMENTS: tuple[Placement, ...] = ("fuse", "sparse")
_CACHED = "calibrated.json"


def hash_images(folder: Path) -> str:
    """Return the sha256 over the contents of a folder's images, in the order of their names."""
    digest = hashlib.sha256()
    for path in image_files(folder):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def hash_labels(annotations: Path) -> str:
    """Return the sha256 of the annotation file; of a data set of several files, that of their sha256."""
    files = files_of(annotations)
    if len(files) == 1:
        return sha256(files[0])
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def write_images(path: Path, files: list[Path], spec: InputSpec) -> None:
    """Write a .npy of float32 [N, 3, H, W] for TensorRT's own calibration, with one image in memory at a time."""
    create: Any = open_memmap  # only typed in later releases of NumPy
    rows = create(path, "w+", np.float32, (len(files), 3, *spec.size))
    for row, image in zip(rows, ImageBatches.from_files(files, spec)(), strict=True):
        row[:] = image[0]
    rows.flush()


def write_int8(job: QuantizeJob, progress: Progress) -> Int8Files:
    """The task of a QuantizeJob. Raises CalibrationError, ConfigError, ModelError."""
    calibrated = _calibrated(job, progress)
    table, even = job.folder / "table.calibration", job.folder / "even.onnx"
    table.write_bytes(calibration_table.write(calibrated.scales))
    models.save(calibrated.model, even)
    files: dict[str, Path] = {}
    for placement in PLACEMENTS:
        quantized, report = quantize(
            calibrated.model, calibrated.scales, placement=placement, keep=calibrated.float_layers
        )
        files[placement] = job.folder / f"{placement}.onnx"
        models.save(quantized, files[placement])
    kept = sum(not layer.int8 for layer in report.layers)
    summary = f"INT8: {calibrated.images} images; {100 * report.share:.0f} % of the convolutions' products"
    notes = (
        f"{summary}{f', {kept} layers stay float' if kept else ''}",
        *(f"INT8: {warning}" for warning in calibrated.warnings),
    )
    return Int8Files(files["fuse"], files["sparse"], even, table, notes)


@dataclass(frozen=True)
class Calibrated:
    """The float model with even channel counts, the scales of its tensors, and the layers that stay float."""

    model: models.Model
    scales: dict[str, float]
    float_layers: tuple[str, ...]
    images: int
    warnings: tuple[str, ...]


def _calibrated(job: QuantizeJob, progress: Progress) -> Calibrated:
    """Calibrate, or reuse an earlier calibration on this device with the same model, images and settings."""
    model = models.load(job.onnx)
    files = image_files(job.images, job.count)
    cached = state_folder() / "int8" / _key(job, model, files)
    if (calibrated := _read(cached)) is not None:
        return calibrated
    images = ImageBatches.from_files(files, job.spec.input, job.batch)
    result = recover(
        model,
        images,
        RecoverOptions(
            CalibrationOptions("mse", job.spec.input), least=job.target.minimum if job.target else None, table=True
        ),
        score=_scorer(job.spec, job.target, progress) if job.target else None,
        progress=progress,
    )
    result = correct_confidences(model, result, images, job.spec, progress).result
    warnings = (*size_warnings(images.sizes, job.spec.input), *result.report.warnings)
    calibrated = Calibrated(result.model, dict(result.scales), result.keep, result.report.images, warnings)
    with suppress(OSError):  # the cache only saves time
        _write(cached, calibrated)
    return calibrated


def _key(job: QuantizeJob, model: models.Model, files: list[Path]) -> str:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    minimum = job.target.minimum if job.target else None
    contents = [*map(sha256, files), *([hash_labels(job.target.annotations)] if job.target else [])]
    for text in (VERSION, str(REVISION), job.spec.model_dump_json(), str(job.batch), str(minimum), *contents):
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def _scorer(spec: DetectorSpec, target: ScoreTarget, progress: Progress) -> Callable[[models.Model], float]:
    labels = Labels(target.annotations, target.images)
    return ModelScorer(spec, labels, partial(progress, "scoring INT8"))


def _read(folder: Path) -> Calibrated | None:
    try:
        fields = json.loads((folder / _CACHED).read_text())
        model = models.load(folder / "even.onnx")
        layers, warnings = tuple(fields["float_layers"]), tuple(fields["warnings"])
        return Calibrated(model, fields["scales"], layers, fields["images"], warnings)
    except (OSError, ValueError, KeyError, TypeError, ModelError):
        return None


def _write(folder: Path, calibrated: Calibrated) -> None:
    """Write a folder and rename it, so that a reader sees all of it or nothing."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        models.save(calibrated.model, part / "even.onnx")
        fields: dict[str, Any] = {"scales": calibrated.scales, "float_layers": calibrated.float_layers}
        fields |= {"images": calibrated.images, "warnings": calibrated.warnings}
        (part / _CACHED).write_text(json.dumps(fields))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
