"""Triton's model repository, read by Triton's own protobuf."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import packages
import pytest
import squares

from edgesparse.builder.build import build
from edgesparse.config import parse
from edgesparse.errors import ConfigError, DeployError
from edgesparse.fleet import triton
from edgesparse.package.manifest import Candidate, TensorRecord
from edgesparse.package.store import open_package


@pytest.fixture(scope="module")
def proto() -> Any:
    """tritonclient's model_config_pb2, loaded by path, since the package needs grpc."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.origin is not None, "pip install tritonclient"
    path = Path(package.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(proto: Any, text: str) -> Any:
    from google.protobuf import text_format

    return text_format.Parse(text, proto.ModelConfig())


CHOSEN = Candidate(name="fp16", precision="fp16", outcome="chosen", reason="")


def plan(**fields: Any) -> Any:
    inputs = (TensorRecord(name="images", shape=(4, 3, 640, 480), dtype="uint8"),)
    outputs = tuple(
        TensorRecord(name=name, shape=(4, 100), dtype=kind) for name, kind in (("s", "float16"), ("n", "int64"))
    )
    identity = {"tensorrt": "10.3.0", "gpu": "Orin (nvgpu)"}
    return packages.manifest(
        backend="tensorrt", identity=identity, inputs=inputs, outputs=outputs, **{"candidates": (CHOSEN,), **fields}
    )


def test_a_real_package_becomes_a_repository(proto: Any, tmp_path: Path, quick: None) -> None:
    from google.protobuf import text_format

    squares.detector(tmp_path / "squares.onnx")
    recipe = parse({"model": str(tmp_path / "squares.onnx"), "build": {"backend": "onnxruntime"}}, "here")
    package = build(recipe, tmp_path / "engines").package
    model = triton.export(package, tmp_path / "repository")
    assert model == tmp_path / "repository" / "squares"
    config = read(proto, (model / "config.pbtxt").read_text())
    assert config.name == "squares" and config.platform == "onnxruntime_onnx" and config.max_batch_size == 0
    assert [(i.name, proto.DataType.Name(i.data_type), [*i.dims]) for i in config.input] == [
        ("images", "TYPE_UINT8", [1, 3, 64, 64])
    ]
    assert [(o.name, [*o.dims]) for o in config.output] == [("output0", [1, 6, squares.CELLS])]
    assert not config.instance_group and text_format.MessageToString(config)
    assert (model / "1" / config.default_model_filename).read_bytes() == package.engine.read_bytes()
    assert (model / "labels.txt").read_text() == "red\ngreen\n"
    assert json.loads((model / "detector.json").read_text())["input"]["size"] == [64, 64]
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["squares"]
    with pytest.raises(ConfigError, match="exists: pass --force"):
        triton.export(package, tmp_path / "repository")
    triton.export(package, tmp_path / "repository", force=True)


def test_a_plan_of_a_fixed_batch(proto: Any) -> None:
    config = read(proto, triton.config(plan()))
    assert (
        config.platform == "tensorrt_plan"
        and config.default_model_filename == "model.plan"
        and config.max_batch_size == 0
    )
    assert [*config.input[0].dims] == [4, 3, 640, 480]
    assert [proto.DataType.Name(output.data_type) for output in config.output] == ["TYPE_FP16", "TYPE_INT64"]
    assert proto.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == "KIND_GPU"


def test_a_plan_of_an_open_batch_is_filled_by_triton(proto: Any) -> None:
    config = read(proto, triton.config(plan(batch=(1, 4, 8))))
    assert config.max_batch_size == 8 and [*config.input[0].dims] == [3, 640, 480] and [*config.output[0].dims] == [100]
    assert [*config.dynamic_batching.preferred_batch_size] == [4]


def test_a_plan_for_a_dla_core(proto: Any) -> None:
    device = read(proto, triton.config(plan(dla=1))).instance_group[0].secondary_devices[0]
    assert device.device_id == 1 and device.kind == proto.ModelInstanceGroup.SecondaryDevice.KIND_NVDLA


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash", "zähler", "new\nline", "# no comment"])
def test_names_are_quoted(proto: Any, name: str) -> None:
    assert read(proto, triton.config(plan(model=name))).name == name


def test_an_image_that_clients_cannot_write_is_refused(tmp_path: Path) -> None:
    chosen = Candidate(name="fp16", precision="fp16", outcome="chosen", reason="", image="float16 HWC8, used as it is")
    package: Any = SimpleNamespace(manifest=plan(candidates=(chosen,)))
    with pytest.raises(DeployError, match=r"takes the image as float16 HWC8, .* set build.image: planes in the recipe"):
        triton.export(package, tmp_path / "repository")


def test_a_backend_that_triton_does_not_have_is_refused(tmp_path: Path) -> None:
    packages.stored(tmp_path / "engines")
    with pytest.raises(DeployError, match="Triton cannot run engines of null, only of onnxruntime, tensorrt"):
        triton.export(open_package(tmp_path / "engines"), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
