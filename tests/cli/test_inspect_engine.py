"""`edgesparse inspect` of what was built: a package, or a TensorRT plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgesparse.backends.base import EngineLayer
from edgesparse.backends.tensorrt import driver
from edgesparse.cli import main
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import Candidate, LayerRecord, Manifest, TensorRecord

Verb = Callable[..., tuple[int, str, str]]
LAYERS = (
    LayerRecord(
        name="/a/Conv + /r/Relu", kernel="sm80_sparse_conv_sptensor", sparse=True, onnx=("/a/Conv",), precision="int8"
    ),
    LayerRecord(name="/b/Conv <1>", kernel="sm80_implicit_gemm", sparse=False, precision="fp16", device="dla"),
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Verb:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def package(folder: Path, *layers: LayerRecord, backend: str = "tensorrt") -> Path:
    """A package that was built on another machine: only its manifest can be read here."""
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


def test_a_package_is_read_wherever_it_was_built(run: Verb, tmp_path: Path) -> None:
    code, out, _ = run("inspect", package(tmp_path / "net", *LAYERS))
    assert code == 0
    assert "sm80_sparse_conv_sptensor" in out and "1 of 2 layers run a 2:4 kernel; 2 were eligible" in out
    assert "1 of 2 eligible layers run sparse; 1.09x" in out


def test_as_json_and_as_a_page(run: Verb, tmp_path: Path) -> None:
    built = package(tmp_path / "net", *LAYERS)
    code, out, err = run("inspect", built, "--json", "--html", tmp_path / "page.html")
    said = json.loads(out)
    assert code == 0 and "wrote" in err
    assert [layer["sparse"] for layer in said["layers"]] == [True, False]
    assert said["layers"][1]["device"] == "dla" and said["eligible"] == [layer.name for layer in LAYERS]
    text = (tmp_path / "page.html").read_text()
    assert "/b/Conv &lt;1&gt;" in text and "http" not in text
    HTMLParser().feed(text)
    assert run("inspect", built, "--html", tmp_path / "page.html")[0] == 2


def test_a_backend_that_tells_no_kernels(run: Verb, tmp_path: Path) -> None:
    code, out, _ = run("inspect", package(tmp_path / "net", backend="onnxruntime"))
    assert code == 0 and out == "net abc: onnxruntime does not report which kernels run\n"


@pytest.mark.no_gpu
def test_a_plan_without_tensorrt_ends_with_three(run: Verb, tmp_path: Path) -> None:
    if driver.TensorRTBackend().probe().ok:
        pytest.skip("here is TensorRT")
    (tmp_path / "model.engine").write_bytes(b"plan")
    code, out, err = run("inspect", tmp_path / "model.engine")
    assert code == 3 and out == ""
    assert "edgesparse: TensorRT does not work here (No module named 'tensorrt'): apt install python3-libnvinfer" in err


def test_a_plan_is_opened_where_tensorrt_is(run: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (EngineLayer("a + b", "x_spmma_y", True), EngineLayer("c", "dense", False))
    monkeypatch.setattr(driver.TensorRTBackend, "layers", lambda self, path: layers)
    (tmp_path / "model.plan").write_bytes(b"plan")
    code, out, _ = run("inspect", tmp_path / "model.plan")
    assert code == 0 and "1 of 2 layers run a 2:4 kernel" in out


@pytest.mark.parametrize("more", [("--device", "orin-nano-8gb"), ("--shape", "x=1x3x8x8")])
def test_options_of_a_model_are_refused(run: Verb, tmp_path: Path, more: tuple[str, str]) -> None:
    assert run("inspect", package(tmp_path / "net", *LAYERS), *more)[0] == 2


def test_a_folder_without_a_package(run: Verb, tmp_path: Path) -> None:
    code, _, err = run("inspect", tmp_path)
    assert code == 1 and "needed one package" in err
