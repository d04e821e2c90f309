"""`edgesparse inspect` of a package or a TensorRT plan."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import Command

from edgesparse.backends.base import EngineLayer
from edgesparse.backends.tensorrt import driver
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import Candidate, LayerRecord, Manifest, TensorRecord

LAYERS = (
    LayerRecord(
        name="/a/Conv + /r/Relu", kernel="sm80_sparse_conv_sptensor", sparse=True, onnx=("/a/Conv",), precision="int8"
    ),
    LayerRecord(name="/b/Conv <1>", kernel="sm80_implicit_gemm", sparse=False, precision="fp16", device="dla"),
)


def package(folder: Path, *layers: LayerRecord, backend: str = "tensorrt") -> Path:
    """A package built on another machine: only its manifest can be read here."""
    won = Candidate(
        name="int8-table-2:4", precision="int8", sparse=True, outcome="chosen", reason="", layers=layers,
        eligible=tuple(layer.name for layer in layers),
    )  # fmt: skip
    folder.mkdir()
    manifests.write(
        folder,
        Manifest(
            edgesparse="0.1.0", build_id="abc", created="", model="net", source_sha256="", recipe_sha256="",
            labels_sha256=None, backend=backend, identity={"tensorrt": "8.5.2.2"}, machine={}, engine="model.engine",
            fallback="model.engine", fallback_precision="fp16",
            inputs=(TensorRecord(name="images", shape=(1, 3, 64, 64), dtype="float32"),), outputs=(),
            detector=DetectorSpec(head="yolov8", classes=("red",), input=InputSpec(size=(64, 64))),
            threads=1, run=Run(), candidates=(won,), verdict=("1 of 2 eligible layers run sparse; 1.09x",), files={},
        ),
    )  # fmt: skip
    return folder


def test_a_package_is_read_wherever_it_was_built(edgesparse: Command, tmp_path: Path) -> None:
    ended = edgesparse("inspect", package(tmp_path / "net", *LAYERS))
    assert ended.code == 0
    assert "sm80_sparse_conv_sptensor" in ended.out and "1 of 2 layers run a 2:4 kernel; 2 were eligible" in ended.out
    assert "1 of 2 eligible layers run sparse; 1.09x" in ended.out


def test_as_json_and_as_a_page(edgesparse: Command, tmp_path: Path) -> None:
    built = package(tmp_path / "net", *LAYERS)
    ended = edgesparse("inspect", built, "--json", "--html", tmp_path / "page.html")
    report = ended.json
    assert ended.code == 0 and "wrote" in ended.err
    assert [layer["sparse"] for layer in report["layers"]] == [True, False]
    assert report["layers"][1]["device"] == "dla" and report["eligible"] == [layer.name for layer in LAYERS]
    text = (tmp_path / "page.html").read_text()
    assert "/b/Conv &lt;1&gt;" in text and "http" not in text
    HTMLParser().feed(text)
    assert edgesparse("inspect", built, "--html", tmp_path / "page.html").code == 2


def test_a_backend_that_reports_no_kernels(edgesparse: Command, tmp_path: Path) -> None:
    ended = edgesparse("inspect", package(tmp_path / "net", backend="onnxruntime"))
    assert ended.code == 0 and ended.out == "net abc: onnxruntime does not report which kernels run\n"


@pytest.mark.no_gpu
def test_a_plan_without_tensorrt_is_refused(edgesparse: Command, tmp_path: Path) -> None:
    if driver.TensorRTBackend().probe().ok:
        pytest.skip("here is TensorRT")
    (tmp_path / "model.engine").write_bytes(b"plan")
    ended = edgesparse("inspect", tmp_path / "model.engine")
    assert ended.code == 3 and ended.out == ""
    assert (
        "edgesparse: TensorRT does not work here (No module named 'tensorrt'): apt install python3-libnvinfer"
        in ended.err
    )


def test_a_plan_is_opened_with_tensorrt(edgesparse: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (EngineLayer("a + b", "x_spmma_y", True), EngineLayer("c", "dense", False))
    monkeypatch.setattr(driver.TensorRTBackend, "layers", lambda self, path: layers)
    (tmp_path / "model.plan").write_bytes(b"plan")
    ended = edgesparse("inspect", tmp_path / "model.plan")
    assert ended.code == 0 and "1 of 2 layers run a 2:4 kernel" in ended.out


@pytest.mark.parametrize("more", [("--device", "orin-nano-8gb"), ("--shape", "x=1x3x8x8")])
def test_options_of_a_model_are_refused(edgesparse: Command, tmp_path: Path, more: tuple[str, str]) -> None:
    assert edgesparse("inspect", package(tmp_path / "net", *LAYERS), *more).code == 2


def test_a_folder_without_a_package(edgesparse: Command, tmp_path: Path) -> None:
    ended = edgesparse("inspect", tmp_path)
    assert ended.code == 1 and "no package in" in ended.err
