"""The ONNX file that each candidate is built from, made when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgesparse.backends import Backend
from edgesparse.builder.candidates import Plan
from edgesparse.builder.child.process import Workers
from edgesparse.builder.int8 import write_images
from edgesparse.builder.prepare import Prepared
from edgesparse.config import Recipe
from edgesparse.errors import CalibrationError, EdgeSparseError
from edgesparse.model import load as models
from edgesparse.model.batch import open_batch
from edgesparse.model.half import to_half
from edgesparse.runtime.images import image_files


class Sources:
    """Files in `folder`. Methods raise CalibrationError where INT8 cannot be prepared.

    `accept`: the score that INT8 is to reach, as `Gate.asks_of_int8` says it.
    """

    def __init__(
        self,
        recipe: Recipe,
        engine: Backend,
        prepared: Prepared,
        folder: Path,
        workers: Workers,
        accept: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._recipe, self._engine, self._prepared = recipe, engine, prepared
        self._folder, self._workers, self._accept = folder, workers, accept
        self._made: dict[str, Path] = {}
        self._int8: Mapping[str, Any] | EdgeSparseError | None = None

    def onnx(self, plan: Plan) -> Path:
        """What `plan` is built from. Raises ModelError where the recipe asks for an open batch that it cannot have."""
        path, batch = self._static(plan), self._recipe.build.batch
        if not (batch.open and self._engine.open_batch):
            return path
        return self._cached(f"{path.stem}-open", path, lambda base: open_batch(models.load(base), batch.min, batch.max))

    def _static(self, plan: Plan) -> Path:
        name, base = "float", self._prepared.simplified
        if plan.precision == "int8" and not self._prepared.quantized:
            name = {"int8-qdq": "fuse", "int8-qdq-sparse": "sparse"}.get(plan.way, "even")
            base = Path(self._quantised()[name])
        if self._engine.takes_bytes:
            return self._cached(f"{name}-bytes", base, self._with_bytes)
        if self._engine.strongly_typed() and plan.precision != "fp32":
            return self._cached(f"{name}-half", base, self._half)
        return base

    def table(self) -> Path:
        """A calibration table in TensorRT's format."""
        return Path(self._quantised()["table"])

    def images(self) -> Path:
        """Images for TensorRT's own calibration."""
        path = self._folder / "images.npy"
        if not path.exists():
            calibrate = self._recipe.calibrate
            assert calibrate.images is not None
            self._workers.progress("writing images for TensorRT's calibration", 0, 0)
            write_images(path, image_files(calibrate.images, calibrate.count), self._prepared.spec.input)
        return path

    def notes(self) -> tuple[str, ...]:
        """What was noticed while INT8 was prepared, and what of the recipe this backend does not do."""
        batch = self._recipe.build.batch
        one = batch.open and not self._engine.open_batch
        static = (f"{self._engine.name} takes one batch: built for build.batch.opt, {batch.opt}",) if one else ()
        return (*static, *(self._int8["notes"] if isinstance(self._int8, Mapping) else ()))

    def _quantised(self) -> Mapping[str, Any]:
        """What the worker's task `quantise` wrote; a second call fails as the first did."""
        if self._int8 is None:
            calibrate = self._recipe.calibrate
            ended = self._workers.run(
                "quantise",
                onnx=str(self._prepared.simplified),
                folder=str(self._folder),
                spec=self._prepared.spec.model_dump_json(),
                calibrate={
                    "count": calibrate.count,
                    "images": str(calibrate.images and calibrate.images.absolute()),
                },
                accept=dict(self._accept),
                batch=self._recipe.build.batch.opt,
                threads=self._recipe.build.threads,
            )
            self._int8 = ended.result or ended.error or CalibrationError("calibration ended without a word")
        if isinstance(self._int8, EdgeSparseError):
            raise self._int8
        return self._int8

    def _cached(self, name: str, base: Path, made: Any) -> Path:
        if name not in self._made:
            path = self._folder / f"{name}.onnx"
            models.save(made(base), path)
            self._made[name] = path
        return self._made[name]

    def _with_bytes(self, base: Path) -> models.Model:
        look = self._prepared.spec.input
        model = self._prepared.fixed if base == self._prepared.simplified else models.load(base)
        return models.byte_input(model, look.scale, look.mean, look.std)

    def _half(self, base: Path) -> models.Model:
        return to_half(models.load(base))
