"""A model repository for NVIDIA's Triton inference server, out of a package.

    DIR/MODEL/config.pbtxt          Triton's ModelConfig (model_config.proto, as protobuf text)
    DIR/MODEL/1/model.onnx|.plan    the engine
    DIR/MODEL/labels.txt            the classes, a line each
    DIR/MODEL/detector.json         what stands before and behind the engine: input, head, thresholds

Triton runs the engine alone; letterbox, decoding and NMS stay with its client.
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
    """Write the repository of a verified package; returns the model's folder, which appears whole or not at all.

    Raises DeployError for a backend that Triton does not have, ConfigError when the model is there already and `force`
    does not let it be replaced.
    """
    manifest = package.manifest
    if manifest.backend not in PLATFORMS:
        known = ", ".join(PLATFORMS)
        raise DeployError(f"Triton runs no engine of {manifest.backend}, only of {known}: build with one of these")
    model = folder / manifest.model
    if model.exists() and not force:
        raise ConfigError(f"{model} is there already: pass --force to replace it, or name another folder")
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
    """The package's config.pbtxt. An open batch is Triton's to fill; a fixed one is the first of the dimensions."""
    platform, name = PLATFORMS[manifest.backend]
    identity = ", ".join(f"{key} {value}" for key, value in manifest.identity.items())
    made = (
        f"{manifest.build_id} by edgesparse {manifest.edgesparse}: {manifest.backend} {manifest.precision}, {identity}"
    )
    lines = [
        f"# {' '.join(made.split())}",
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
    """A plan runs on the GPU that built it, or on a DLA core; ONNX Runtime where Triton finds best."""
    if manifest.backend != "tensorrt":
        return
    dla = f" secondary_devices [ {{ kind: KIND_NVDLA device_id: {manifest.dla} }} ]" if manifest.dla is not None else ""
    yield f"instance_group [ {{ count: 1 kind: KIND_GPU{dla} }} ]"


def _detector(manifest: Manifest) -> str:
    said = {**manifest.detector.model_dump(mode="json"), "run": manifest.run.redacted().model_dump(mode="json")}
    return json.dumps(said, indent=1) + "\n"


def _text(value: str) -> str:
    """As protobuf's text format quotes it: like JSON, with other letters as they are."""
    return json.dumps(value, ensure_ascii=False)
