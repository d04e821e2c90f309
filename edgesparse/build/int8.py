"""INT8 from a float model and pictures: calibrated once, written in every form that a candidate may be built from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from edgesparse.build.worker import Job, Progress
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import CalibrationError
from edgesparse.graph import calibration_cache
from edgesparse.graph import model as graph
from edgesparse.graph.calibration import Calibration, calibrate
from edgesparse.graph.placement import Placement
from edgesparse.graph.quantize import quantised_tensors, quantize
from edgesparse.package.sign import state_folder
from edgesparse.runtime.pictures import picture_files, prepared

PLACEMENTS: tuple[Placement, ...] = ("fuse", "sparse")


def hash_of(folder: Path) -> str:
    """sha256 over the pictures of a folder."""
    digest = hashlib.sha256()
    for path in picture_files(folder):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_pictures(path: Path, files: list[Path], spec: InputSpec) -> None:
    """For TensorRT's own calibration: a .npy of N x 3 x H x W float32, a picture in memory at a time."""
    rows = open_memmap(path, "w+", np.float32, (len(files), 3, *spec.size))  # type: ignore[no-untyped-call]
    for row, picture in zip(rows, prepared(files, spec, 1)(), strict=True):
        row[:] = picture[0]
    rows.flush()


def quantise(job: Job, progress: Progress) -> dict[str, Any]:
    """The worker's task: `onnx` calibrated on the pictures of `calibrate`, written into `folder`.

    Returns the paths `fuse` and `sparse` (Q/DQ in either placement), `grid` (the float model that the `table` belongs
    to), `table`, and `notes`.
    """
    folder, wanted = Path(job["folder"]), job["calibrate"]
    spec = DetectorSpec.model_validate_json(job["spec"]).input
    model = graph.load(Path(job["onnx"]))
    files = picture_files(Path(wanted["pictures"]), wanted["count"])
    names = _upstream(model, {name for placement in PLACEMENTS for name in quantised_tensors(model, placement)})
    steps = -(-len(files) // job["batch"])
    found = _calibrated(
        model, prepared(files, spec, job["batch"]), names, spec, lambda what, done, _: progress(what, done, steps)
    )
    scales = {name: amax / 127 for name, amax in found.amax.items()}
    said: dict[str, Any] = {"grid": job["onnx"], "table": str(folder / "table.calibration")}
    for placement in PLACEMENTS:
        written, report = quantize(model, scales, placement=placement)
        path = folder / f"{placement}.onnx"
        graph.save(written, path)
        said[placement] = str(path)
    kept = [layer.name for layer in report.layers if not layer.int8]
    (folder / "table.calibration").write_bytes(calibration_cache.write(scales))
    notes = [f"INT8: {warning}" for warning in found.warnings]
    share = f"INT8: calibrated on {found.pictures} pictures; {100 * report.share:.0f} % of the convolutions' products"
    said["notes"] = [f"{share}{f', {len(kept)} layers stay float' if kept else ''}", *notes]
    return said


def _calibrated(model: graph.Model, batches: Any, names: list[str], spec: InputSpec, progress: Progress) -> Calibration:
    """Reused where model, pictures and settings are those of an earlier build on this device."""
    saved = state_folder() / "calibration" / f"{hashlib.sha256(model.SerializeToString()).hexdigest()[:16]}.json"
    try:
        found = calibrate(model, batches, tensors=names, spec=spec, saved=saved, progress=progress)
    except CalibrationError:
        if not saved.exists():
            raise
        saved.unlink()  # damaged
        found = calibrate(model, batches, tensors=names, spec=spec, progress=progress)
    try:
        saved.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found.save(saved)
    except OSError:
        pass  # it is only a shortcut
    return found


def _upstream(model: graph.Model, names: Collection[str]) -> list[str]:
    """The activations that `names` are computed from, and they themselves: what TensorRT's table is to hold.

    Behind them stand the head's outputs and the decoding, which lose most in INT8: without a scale they stay float.
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        node = producer.get(name)
        if name in found or name in constant or not name or (node is not None and not node.input):
            continue
        found.add(name)
        waiting += node.input if node is not None else ()
    return [value.name for value in model.graph.input if value.name in found] + [
        name for node in model.graph.node for name in node.output if name in found
    ]
