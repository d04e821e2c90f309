"""The ONNX files that candidates are built from, each written when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgesparse.backends.base import ImageInput
from edgesparse.backends.frames import MOST_IMAGES
from edgesparse.builder.candidates import CandidatePlan
from edgesparse.builder.child.job import Int8Files, QuantizeJob, ScoreTarget
from edgesparse.builder.int8 import write_images
from edgesparse.builder.prepare import Build
from edgesparse.errors import CalibrationError, EdgeSparseError
from edgesparse.int8 import calibration_table
from edgesparse.int8.quantized_input import image_type, without_quantizer
from edgesparse.model import load as models
from edgesparse.model.batch import open_batch
from edgesparse.model.half import to_half
from edgesparse.runtime.images import image_files


class OnnxFiles:
    """Files in the build's folder. `target` is the score that INT8 must reach, if any.

    Methods raise CalibrationError if INT8 cannot be prepared.
    """

    def __init__(self, build: Build, target: ScoreTarget | None = None) -> None:
        self._build, self._target = build, target
        self._written: dict[str, Path] = {}
        self._int8: dict[bool, Int8Files | EdgeSparseError] = {}
        """Of the network, and of the rewritten one (True)."""

    def onnx(self, plan: CandidatePlan) -> Path:
        """Return the file of a plan. Raises ModelError if the recipe's batch range is not possible."""
        path, batch = self._static(plan), self._build.recipe.build.batch
        if not (batch.open and self._build.backend.open_batch):
            return path
        return self._cached(f"{path.stem}-open", path, lambda base: open_batch(models.load(base), batch.min, batch.max))

    def _static(self, plan: CandidatePlan) -> Path:
        prepared, backend = self._build.prepared, self._build.backend
        name, base = "float", prepared.source(plan.slim)
        if plan.precision == "int8" and not prepared.quantized:
            name = {"int8-qdq": "fuse", "int8-qdq-sparse": "sparse"}.get(plan.way, "even")
            files = self._quantized(plan.slim)
            base = {"fuse": files.fuse, "sparse": files.sparse, "even": files.even}[name]
        name = f"slim-{name}" if plan.slim else name
        if backend.takes_bytes:
            return self._cached(f"{name}-bytes", base, self._with_bytes)
        if backend.strongly_typed() and plan.precision != "fp32":
            return self._cached(f"{name}-half", base, lambda path: to_half(models.load(path)))
        return base

    def own_layout(self, plan: CandidatePlan) -> tuple[Path, ImageInput] | None:
        """Return the file of a plan for an engine that takes the image in a layout of its own, and the image's type;
        None if it takes the image as the model has it. Raises what `onnx` raises.
        """
        build, backend = self._build.recipe.build, self._build.backend
        unusual = build.image != "native" or build.dla is not None or build.batch.max > MOST_IMAGES
        if unusual or plan.precision == "fp32" or plan.way == "int8-tensorrt" or not backend.chooses_image_layout():
            return None  # TensorRT calibrates on FP32 only
        path = self.onnx(plan)
        model = models.load(path)
        kind = image_type(model)
        if plan.way == "int8-table" and kind is not None:
            scale = calibration_table.read(self.table().read_bytes()).scales.get(models.info(model).image)
            return None if scale is None else (path, ImageInput("int8", scale))
        if kind is None or (kind[0] == "float16" and backend.strongly_typed()):
            return None
        if kind[0] == "int8":
            path = self._cached(f"{path.stem}-image", path, lambda base: without_quantizer(models.load(base)))
        return path, ImageInput(*kind)

    def table(self) -> Path:
        """Return the calibration table in TensorRT's format."""
        return self._quantized().table

    def images(self) -> Path:
        """Return the images for TensorRT's own calibration."""
        path = self._build.folder / "images.npy"
        if not path.exists():
            calibrate = self._build.recipe.calibrate
            assert calibrate.images is not None
            self._build.workers.progress("writing images for TensorRT's calibration", 0, 0)
            write_images(path, image_files(calibrate.images, calibrate.count), self._build.prepared.spec.input)
        return path

    def notes(self) -> tuple[str, ...]:
        """Return notes on INT8, and on recipe settings that this backend ignores."""
        batch, backend = self._build.recipe.build.batch, self._build.backend
        static = batch.open and not backend.open_batch
        note = (f"{backend.name} takes a single batch size: built for build.batch.opt, {batch.opt}",) if static else ()
        files = [entry for entry in self._int8.values() if isinstance(entry, Int8Files)]
        return (*note, *dict.fromkeys(line for entry in files for line in entry.notes))

    def _quantized(self, slim: bool = False) -> Int8Files:
        """Return the files written by the quantize job; a second call fails like the first."""
        if slim not in self._int8:
            folder = self._build.folder / "slim" if slim else self._build.folder
            folder.mkdir(exist_ok=True)
            recipe = self._build.recipe
            assert recipe.calibrate.images is not None
            ended = self._build.workers.run(
                QuantizeJob(
                    onnx=self._build.prepared.source(slim),
                    folder=folder,
                    spec=self._build.prepared.spec,
                    images=recipe.calibrate.images.absolute(),
                    count=recipe.calibrate.count,
                    batch=recipe.build.batch.opt,
                    target=self._target,
                )
            )
            self._int8[slim] = ended.value or ended.error or CalibrationError("calibration ended without a result")
        result = self._int8[slim]
        if isinstance(result, EdgeSparseError):
            raise result
        return result

    def _cached(self, name: str, base: Path, convert: Callable[[Path], models.Model]) -> Path:
        if name not in self._written:
            path = self._build.folder / f"{name}.onnx"
            models.save(convert(base), path)
            self._written[name] = path
        return self._written[name]

    def _with_bytes(self, base: Path) -> models.Model:
        prepared = self._build.prepared
        spec = prepared.spec.input
        model = prepared.fixed if base == prepared.simplified else models.load(base)
        return models.byte_input(model, spec.scale, spec.mean, spec.std)
