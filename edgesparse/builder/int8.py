"""INT8 from a float model and images: made once, written in every form that a candidate may be built from."""

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

from edgesparse.builder.child.worker import Job
from edgesparse.builder.scoring import points
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.device import state_folder
from edgesparse.errors import ModelError
from edgesparse.int8 import calibration_table
from edgesparse.int8.placement import Placement
from edgesparse.int8.quantize import quantize
from edgesparse.int8.recover import recover
from edgesparse.int8.representative import size_warnings
from edgesparse.model import load as models
from edgesparse.package.manifest import sha256
from edgesparse.progress import Progress
from edgesparse.runtime.evaluate import Labels
from edgesparse.runtime.images import ImageBatches, image_files
from edgesparse.version import VERSION

MADE = 2
"""Goes into the key of what is kept: raise it when `recover` makes something else of the same."""
PLACEMENTS: tuple[Placement, ...] = ("fuse", "sparse")


def hash_of(folder: Path) -> str:
    """sha256 over the images of a folder."""
    digest = hashlib.sha256()
    for path in image_files(folder):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_images(path: Path, files: list[Path], spec: InputSpec) -> None:
    """For TensorRT's own calibration: a .npy of N x 3 x H x W float32, an image in memory at a time."""
    create: Any = open_memmap  # typed only in later releases of NumPy
    rows = create(path, "w+", np.float32, (len(files), 3, *spec.size))
    for row, image in zip(rows, ImageBatches.from_files(files, spec)(), strict=True):
        row[:] = image[0]
    rows.flush()


def quantise(job: Job, progress: Progress) -> dict[str, Any]:
    """The worker's task: INT8 for `onnx` from the images of `calibrate`, written into `folder`.

    `accept` says on which `labels` it must have the `least` mAP: layers stay float for that; empty, all are INT8.
    Returns the paths `fuse` and `sparse` (Q/DQ in either placement), `table` and `even`, the float model that the table
    belongs to, and `notes`.
    """
    folder = Path(job["folder"])
    found = _recovered(job, progress)
    (folder / "table.calibration").write_bytes(calibration_table.write(found.scales))
    models.save(found.model, folder / "even.onnx")
    said: dict[str, Any] = {"even": str(folder / "even.onnx"), "table": str(folder / "table.calibration")}
    for placement in PLACEMENTS:
        written, report = quantize(found.model, found.scales, placement=placement, keep=found.keep)
        path = folder / f"{placement}.onnx"
        models.save(written, path)
        said[placement] = str(path)
    kept = sum(not layer.int8 for layer in report.layers)
    share = f"INT8: {found.images} images; {100 * report.share:.0f} % of the convolutions' products"
    notes = [f"INT8: {warning}" for warning in found.warnings]
    return {**said, "notes": [f"{share}{f', {kept} layers stay float' if kept else ''}", *notes]}


@dataclass(frozen=True)
class Found:
    """What `recover` made, as far as every form of INT8 needs it."""

    model: models.Model
    scales: dict[str, float]
    keep: tuple[str, ...]
    images: int
    warnings: tuple[str, ...]


def _recovered(job: Job, progress: Progress) -> Found:
    """Taken from an earlier build on this device where model, images and settings are the same."""
    wanted, accept = job["calibrate"], job["accept"]
    detector = DetectorSpec.model_validate_json(job["spec"])
    spec = detector.input
    model = models.load(Path(job["onnx"]))
    files = image_files(Path(wanted["images"]), wanted["count"])
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    known = [*map(sha256, files), *(sha256(Path(labels)) for labels in accept.get("labels", ())[:1])]
    for text in (VERSION, str(MADE), detector.model_dump_json(), str(job["batch"]), str(accept.get("least")), *known):
        digest.update(text.encode())
    kept = state_folder() / "int8" / digest.hexdigest()[:16]
    if (there := _read(kept)) is not None:
        return there
    images = ImageBatches.from_files(files, spec, job["batch"])
    made = recover(
        model,
        images,
        score=_score(detector, accept["labels"], progress) if accept else None,
        least=accept.get("least"),
        table=True,
        spec=spec,
        progress=progress,
    )
    warnings = (*size_warnings(images.sizes, spec), *made.report.warnings)
    found = Found(made.model, dict(made.scales), made.keep, made.report.images, warnings)
    with suppress(OSError):  # it is only a shortcut
        _write(kept, found)
    return found


def _score(detector: DetectorSpec, labels: list[str], progress: Progress) -> Callable[[models.Model], float]:
    return partial(
        points,
        spec=detector,
        labels=Labels(*map(Path, labels)),
        progress=partial(progress, "scoring INT8"),
    )


def _read(folder: Path) -> Found | None:
    try:
        said = json.loads((folder / "found.json").read_text())
        model = models.load(folder / "even.onnx")
        return Found(model, said["scales"], tuple(said["keep"]), said["images"], tuple(said["warnings"]))
    except (OSError, ValueError, KeyError, ModelError):
        return None


def _write(folder: Path, found: Found) -> None:
    """At once: a reader sees the whole of it or nothing."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        models.save(found.model, part / "even.onnx")
        said: dict[str, Any] = {"scales": found.scales, "keep": found.keep}
        said |= {"images": found.images, "warnings": found.warnings}
        (part / "found.json").write_text(json.dumps(said))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
