"""A package as a model repository for NVIDIA's Triton inference server.

    DIR/MODEL/config.pbtxt          Triton's ModelConfig (model_config.proto, as protobuf text)
    DIR/MODEL/1/model.onnx|.plan    the engine
    DIR/MODEL/labels.txt            one class name per line
    DIR/MODEL/detector.json         what pre- and postprocessing need: input, head, thresholds

Triton only runs the engine; letterbox, decoding and NMS are left to the client.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgesparse.errors import ConfigError, DeployError
from edgesparse.package.manifest import Manifest, TensorRecord
from edgesparse.package.store import Package

PLATFORMS = {"onnxruntime": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}
TYPES = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}


def export(package: Package, folder: Path, force: bool = False) -> Path:
    """Write the repository of a verified package. Returns the model's folder, which is created atomically.

    Raises DeployError for a backend that Triton does not have or an image that clients cannot write, ConfigError if the
    model exists and `force` is not set.
    """
    manifest = package.manifest
    if manifest.backend not in PLATFORMS:
        known = ", ".join(PLATFORMS)
        raise DeployError(f"Triton cannot run engines of {manifest.backend}, only of {known}: build with one of these")
    if manifest.image:
        raise DeployError(
            f"the engine takes the image as {manifest.image}, which only edgesparse writes: set build.image: planes in "
            "the recipe and build it again"
        )
    model = folder / manifest.model
    if model.exists() and not force:
        raise ConfigError(f"{model} exists: pass --force to replace it, or name another folder")
    _, name = PLATFORMS[manifest.backend]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".edgesparse-", dir=folder) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            (new / "1").mkdir(parents=True)
            shutil.copyfile(package.engine, new / "1" / name)
            (new / "config.pbtxt").write_text(config(manifest))
            (new / "labels.txt").write_text("".join(f"{label}\n" for label in manifest.detector.classes))
            (new / "detector.json").write_text(_detector(manifest))
            if model.exists():
                model.rename(old)
            new.rename(model)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from None
    return model


def config(manifest: Manifest) -> str:
    """Return the package's config.pbtxt. Triton fills a dynamic batch; a fixed batch is the first dimension."""
    platform, name = PLATFORMS[manifest.backend]
    identity = ", ".join(f"{key} {value}" for key, value in manifest.identity.items())
    origin = (
        f"{manifest.build_id} by edgesparse {manifest.edgesparse}: {manifest.backend} {manifest.precision}, {identity}"
    )
    lines = [
        f"# {' '.join(origin.split())}",
        f"name: {_text(manifest.model)}",
        f"platform: {_text(platform)}",
        f"default_model_filename: {_text(name)}",
        f"max_batch_size: {manifest.batch[2] if manifest.batch else 0}",
        *_tensors("input", manifest.inputs, manifest.batch is not None),
        *_tensors("output", manifest.outputs, manifest.batch is not None),
    ]
    if manifest.batch:
        lines.append(f"dynamic_batching {{ preferred_batch_size: [ {manifest.batch[1]} ] }}")
    lines += _instances(manifest)
    return "\n".join(lines) + "\n"


def _tensors(what: str, tensors: tuple[TensorRecord, ...], batched: bool) -> Iterator[str]:
    for tensor in tensors:
        kind = TYPES.get(tensor.dtype, tensor.dtype.upper())
        shape = ", ".join(map(str, tensor.shape[1:] if batched else tensor.shape))
        yield f"{what} [ {{ name: {_text(tensor.name)} data_type: TYPE_{kind} dims: [ {shape} ] }} ]"


def _instances(manifest: Manifest) -> Iterator[str]:
    """Yield where the engine runs: a plan on the GPU that built it or on a DLA core, ONNX Runtime wherever Triton
    chooses.
    """
    if manifest.backend != "tensorrt":
        return
    dla = f" secondary_devices [ {{ kind: KIND_NVDLA device_id: {manifest.dla} }} ]" if manifest.dla is not None else ""
    yield f"instance_group [ {{ count: 1 kind: KIND_GPU{dla} }} ]"


def _detector(manifest: Manifest) -> str:
    description = {**manifest.detector.model_dump(mode="json"), "run": manifest.run.redacted().model_dump(mode="json")}
    return json.dumps(description, indent=1) + "\n"


def _text(value: str) -> str:
    """Quote a string for protobuf's text format: as JSON does, without escaping non-ASCII letters."""
    return json.dumps(value, ensure_ascii=False)
