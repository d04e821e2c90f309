"""The ONNX Runtime backend: the same numbers as a plain session, in persistent buffers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import squares
from numpy.typing import NDArray
from onnx import helper

from edgesparse.backends import BuildOptions, Runner, backend
from edgesparse.errors import BackendUnavailable, BuildError, ModelError

ONNXRUNTIME = backend("onnxruntime")
node = helper.make_node


def plain(path: Path, images: NDArray[np.float32]) -> NDArray[Any]:
    """Outputs of a plain ONNX Runtime session of the file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


def noise(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((1, 3, 64, 64), np.float32)


def quantized(path: Path) -> Path:
    """One convolution in int8, with QuantizeLinear and DequantizeLinear before it and on its weight."""
    weight = np.random.default_rng(1).integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
    weights: dict[str, NDArray[Any]] = {
        "w": weight,
        "w_scale": np.full(8, 0.01, np.float32),
        "w_zero": np.zeros(8, np.int8),
        "scale": np.array(1 / 127, np.float32),
        "zero": np.array(0, np.int8),
    }
    nodes = [
        node("QuantizeLinear", ["images", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["dw"], axis=0),
        node("Conv", ["x", "dw"], ["output"]),
    ]
    return squares.write(path, nodes, weights, [("images", (1, 3, 64, 64))], [("output", (1, 8, 62, 62))])


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize(("model", "precision"), [(squares.detector, "fp32"), (quantized, "int8")])
def test_what_it_builds_answers_as_the_file_did(tmp_path: Path, model: Any, precision: str, simplify: bool) -> None:
    source = model(tmp_path / "source.onnx")
    result = ONNXRUNTIME.build(source, tmp_path / "model.onnx", BuildOptions(threads=1, simplify=simplify))
    assert result.path == tmp_path / "model.onnx" and result.precision == precision and result.seconds > 0
    with ONNXRUNTIME.load(result.path, 1) as runner:
        buffers = runner.allocate()
        runner.bind(buffers)
        for seed in range(2):
            buffers["images"][...] = noise(seed)
            runner.infer()
            steps = 1 if precision == "int8" else 0  # a value between two steps may be rounded either way
            np.testing.assert_allclose(buffers[runner.outputs[0].name], plain(source, noise(seed)), atol=1e-5 + steps)


def test_simplifying_folds_constants_and_stays_plain_onnx(tmp_path: Path) -> None:
    weights = {"a": np.ones((1, 3, 1, 1), np.float32), "b": np.ones((1, 3, 1, 1), np.float32)}
    nodes = [node("Add", ["a", "b"], ["c"]), node("Identity", ["images"], ["x"]), node("Mul", ["x", "c"], ["y"])]
    shape = (1, 3, 64, 64)
    source = squares.write(tmp_path / "source.onnx", nodes, weights, [("images", shape)], [("y", shape)])
    kept = {}
    for simplify in (True, False):
        ONNXRUNTIME.build(source, tmp_path / "model.onnx", BuildOptions(simplify=simplify))
        model = onnx.load(tmp_path / "model.onnx")
        onnx.checker.check_model(model)
        kept[simplify] = [n.op_type for n in model.graph.node]
    assert kept == {True: ["Mul"], False: ["Add", "Identity", "Mul"]}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return ONNXRUNTIME.load(squares.detector(tmp_path / "model.onnx"), 1)


def test_the_tensors_are_described(runner: Runner) -> None:
    assert [str(spec) for spec in runner.inputs] == ["images 1x3x64x64 float32"]
    assert [str(spec) for spec in runner.outputs] == ["output0 1x6x84 float32"]


def test_it_writes_into_the_buffers_that_are_bound(runner: Runner) -> None:
    first, second = runner.allocate(), runner.allocate()
    for buffers in (first, second, first):
        runner.bind(buffers)
        for buffer in (*first.values(), *second.values()):
            buffer[...] = 0
        buffers["images"][:, 0] = 1
        runner.infer()
        assert [bool(b["output0"].any()) for b in (first, second)] == [buffers is first, buffers is second]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("output0"), "no buffer for output0 1x6x84 float32: found images"),
        (lambda b: b.update(images=np.zeros((1, 3, 32, 32), np.float32)), "images .*: found 1x3x32x32 float32"),
        (lambda b: b.update(images=np.zeros((1, 3, 64, 64), np.float64)), "images .*: found 1x3x64x64 float64"),
        (lambda b: b.update(images=np.zeros((1, 3, 64, 128), np.float32)[..., ::2]), "not C-contiguous"),
    ],
)
def test_buffers_that_do_not_fit_are_refused(runner: Runner, change: Any, message: str) -> None:
    buffers = runner.allocate()
    change(buffers)
    with pytest.raises(BuildError, match=message):
        runner.bind(buffers)


def test_closing_twice_does_nothing(runner: Runner) -> None:
    runner.close()
    runner.close()


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_threads_change_no_number(tmp_path: Path, threads: int) -> None:
    source = squares.detector(tmp_path / "model.onnx")
    with ONNXRUNTIME.load(source, threads) as runner:
        buffers = runner.allocate()
        runner.bind(buffers)
        buffers["images"][...] = noise()
        runner.infer()
        np.testing.assert_allclose(buffers["output0"], plain(source, noise()), atol=1e-6)


def test_a_dynamic_shape_is_refused(tmp_path: Path) -> None:
    path = squares.detector(tmp_path / "model.onnx", batch="n", size=("h", "w"))
    with pytest.raises(ModelError, match=r"images has the dynamic shape .*: needed a static one"):
        ONNXRUNTIME.load(path, 1)


def test_an_operator_of_a_domain_of_its_own_is_refused_in_one_line(tmp_path: Path) -> None:
    path = squares.set_domain(squares.detector(tmp_path / "model.onnx"), "com.acme")
    with pytest.raises(ModelError, match=r"model.onnx: ONNX Runtime refuses it: .*com.acme") as caught:
        ONNXRUNTIME.build(path, tmp_path / "out.onnx", BuildOptions())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not (tmp_path / "out.onnx").exists()


def test_a_shape_that_does_not_fit_is_found_when_it_is_built(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = squares.detector(tmp_path / "model.onnx", size=(96, 96))  # its boxes are those of 64x64
    with pytest.raises(BuildError, match=r"ONNX Runtime cannot run out.onnx: .*shape") as caught:
        ONNXRUNTIME.build(path, tmp_path / "out.onnx", BuildOptions(simplify=False))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BuildError, match="cannot load it") as caught:
        ONNXRUNTIME.load(tmp_path / "model.onnx", 1)
    assert "\n" not in str(caught.value)


def test_what_is_no_tensor_cannot_be_bound(tmp_path: Path) -> None:
    item = helper.make_tensor_sequence_value_info("many", onnx.TensorProto.FLOAT, None)
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, (1, 3, 64, 64))
    graph = helper.make_graph([node("SequenceConstruct", ["images"], ["many"])], "test", [images], [item])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(tmp_path / "model.onnx"))
    with pytest.raises(ModelError, match=r"many is a seq\(tensor\(float\)\): only tensors"):
        ONNXRUNTIME.load(tmp_path / "model.onnx", 1)


def test_double_and_half_precision_have_numpys_names(tmp_path: Path) -> None:
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT16, (1, 3))
    wide = helper.make_tensor_value_info("wide", onnx.TensorProto.DOUBLE, (1, 3))
    graph = helper.make_graph([node("Cast", ["images"], ["wide"], to=onnx.TensorProto.DOUBLE)], "t", [images], [wide])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(tmp_path / "model.onnx"))
    with ONNXRUNTIME.load(tmp_path / "model.onnx", 1) as runner:
        assert (runner.inputs[0].dtype, runner.outputs[0].dtype) == ("float16", "float64")


def test_files_of_this_release_and_older_ones_may_be_loaded() -> None:
    here = ONNXRUNTIME.identity()["onnxruntime"]
    assert ONNXRUNTIME.refuses({"onnxruntime": here}) is None
    assert ONNXRUNTIME.refuses({"onnxruntime": "1.9.0"}) is None
    assert ONNXRUNTIME.refuses({"onnxruntime": "99.1"}) == f"found ONNX Runtime {here}, needed 99.1 or newer"


def test_without_onnxruntime_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    available = ONNXRUNTIME.probe()
    assert not available.ok and available.remedy == "pip install onnxruntime"
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime"):
        ONNXRUNTIME.load(tmp_path / "model.onnx")


def test_quantised_files_compute_what_is_written(tmp_path: Path) -> None:
    """By default ONNX Runtime rounds the bias to the grid of the products, which is coarse here."""
    scales: dict[str, NDArray[Any]] = {"s": np.array(1, np.float32), "z": np.array(0, np.int8)}
    weights: dict[str, NDArray[Any]] = {"w": np.ones((2, 3, 1, 1), np.int8), "b": np.array([0.3, 0.4], np.float32)}
    nodes = [node("QuantizeLinear", ["images", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["dq"])]
    nodes += [node("DequantizeLinear", ["w", "s", "z"], ["wdq"]), node("Conv", ["dq", "wdq", "b"], ["c"])]
    nodes += [node("Relu", ["c"], ["r"]), node("QuantizeLinear", ["r", "fine", "z"], ["rq"])]
    nodes += [node("DequantizeLinear", ["rq", "fine", "z"], ["y"])]
    tensors = scales | weights | {"fine": np.array(0.1, np.float32)}
    sides = [("images", (1, 3, 64, 64))], [("y", (1, 2, 64, 64))]
    source = squares.write(tmp_path / "source.onnx", nodes, tensors, *sides)
    images = 4 * noise()
    ONNXRUNTIME.build(source, tmp_path / "model.onnx", BuildOptions())
    for path in (source, tmp_path / "model.onnx"):
        with ONNXRUNTIME.load(path, 1) as runner:
            buffers = runner.allocate()
            runner.bind(buffers)
            buffers["images"][...] = images
            runner.infer()
            assert np.allclose(buffers["y"], plain(source, images))


def test_an_operators_name_inside_another_name_makes_no_int8_model(tmp_path: Path) -> None:
    weights = {"DequantizeLinear": np.ones(1, np.float32)}
    nodes = [node("Mul", ["images", "DequantizeLinear"], ["y"], "DequantizeLinear")]
    shape = (1, 3, 64, 64)
    source = squares.write(tmp_path / "source.onnx", nodes, weights, [("images", shape)], [("y", shape)])
    assert ONNXRUNTIME.build(source, tmp_path / "model.onnx", BuildOptions()).precision == "fp32"
