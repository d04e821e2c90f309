"""Ranges measured on images: which tensors, which method, which warnings, and the file that stores them."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, TensorProto
from small_models import model, node, random, run

from edgesparse.config import InputSpec
from edgesparse.errors import CalibrationError
from edgesparse.int8.calibration import Calibration, CalibrationOptions, calibrate
from edgesparse.int8.observe import activations, layer_inputs, observe
from edgesparse.int8.thresholds import METHODS
from edgesparse.model.activations import Batches

W1, W2 = random(8, 3, 3, 3), random(4, 8, 1, 1, seed=1)
SPEC = InputSpec(size=(12, 12), scale=1.0)


def net(w1: npt.NDArray[np.float32] = W1, w2: npt.NDArray[np.float32] = W2) -> ModelProto:
    """x -> conv -> ReLU -> conv -> y, and a sum of the first two."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["y"], "second"),
    ]
    return model(nodes, {"w1": w1, "w2": w2}, (1, 3, 12, 12))


def images(count: int = 4, factor: float = 1.0, start: int = 0) -> Batches:
    return lambda: [random(1, 3, 12, 12, seed=i) * np.float32(factor) for i in range(start, start + count)]


def test_the_tensors_are_the_inputs_of_every_layer_unless_named() -> None:
    source = net()
    assert layer_inputs(source) == ["x", "b"]
    assert activations(source) == ["x", "a", "b", "y"]
    assert list(calibrate(source, images(), CalibrationOptions("max")).amax) == ["x", "b"]
    assert list(calibrate(source, images(), CalibrationOptions("max"), tensors=["y"]).amax) == ["y"]


def test_both_factors_of_a_product_of_activations_count() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("MatMul", ["x", "r"], ["y"])]
    assert layer_inputs(model(nodes, {}, (1, 1, 6, 6))) == ["x", "r"]


@pytest.mark.parametrize("batch", [1, 3])
def test_max_is_the_largest_magnitude_over_all_images(batch: int) -> None:
    source = net()
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    data = [random(batch, 3, 12, 12, seed=i) for i in range(3)]
    result = calibrate(source, lambda: data, CalibrationOptions("max"), tensors=["x", "y"])
    assert result.images == 3 * batch
    assert result.amax["x"] == max(float(np.abs(x).max()) for x in data)
    assert result.amax["y"] == pytest.approx(max(float(np.abs(run(source, x)[0]).max()) for x in data), rel=1e-5)
    assert result.scales["x"] == float(np.float32(result.amax["x"]) / np.float32(127))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_sets_the_threshold_of_the_histogram(method: str) -> None:
    source = net()
    captured = observe(source, images(), ["x", "b"])
    result = calibrate(source, images(), CalibrationOptions(method))
    for name, histogram in captured.histograms.items():
        assert result.amax[name] == np.float32(METHODS[method](histogram))
        assert result.ranges[name].method == method


def test_best_takes_the_least_error_in_the_outputs_of_the_readers() -> None:
    """A channel with large values that the layer ignores: its own squared error makes clipping look expensive."""
    w1, w2 = W1.copy(), W2.copy()
    w1[0] *= 60
    w2[:, 0] = 0
    source = net(w1, w2)
    result = calibrate(source, images(), tensors=["b"])
    assert result.ranges["b"].method != "mse"
    others = {m: calibrate(source, images(), CalibrationOptions(m), tensors=["b"]).amax["b"] for m in METHODS}
    errors = {m: _output_error(source, amax) for m, amax in others.items()}
    assert result.ranges["b"].method == min(errors, key=errors.__getitem__)
    assert result.ranges["b"].error == pytest.approx(min(errors.values()), rel=1e-3)


def _output_error(source: ModelProto, amax: float) -> float:
    """The error of tensor b as `best` defines it, computed independently."""
    wrong = right = 0.0
    w2 = next(np.frombuffer(t.raw_data, np.float32).reshape(4, 8) for t in source.graph.initializer if t.name == "w2")
    inner = ModelProto()
    inner.CopyFrom(source)
    inner.graph.output[0].name = "b"
    del inner.graph.node[2:]
    for x in images()():
        b = run(inner, x)[0][0].reshape(8, -1)
        scale = np.float32(amax / 127)
        rounded = np.clip(np.floor(b / scale + np.float32(0.5)), -128, 127) * scale
        wrong += float(np.square(w2 @ rounded - w2 @ b).sum())
        right += float(np.square(w2 @ b).sum())
    return wrong / right


def test_best_without_readers_measures_the_tensor_itself() -> None:
    result = calibrate(net(), images(), tensors=["y"]).ranges["y"]
    assert result.method in METHODS and result.error is not None and 0 < result.error < 1e-3


def test_half_precision_models_calibrate() -> None:
    nodes = [node("Conv", ["x", "w"], ["y"], "first")]
    source = model(nodes, {"w": W1.astype(np.float16)}, (1, 3, 12, 12), dtype=TensorProto.FLOAT16)
    result = calibrate(source, images(), tensors=["x", "y"])
    assert result.amax["x"] == pytest.approx(max(np.abs(x).max() for x in images()()), rel=0.2)


@pytest.mark.parametrize("method", ["best", *METHODS])
def test_constant_zero_and_tiny_tensors_have_usable_ranges(method: str) -> None:
    nodes = [
        node("Conv", ["x", "zero"], ["n"]),
        node("Conv", ["x", "zero", "bias"], ["c"]),
        node("Mul", ["x", "tiny"], ["t"]),
        node("Conv", ["n", "w"], ["n2"]),
        node("Conv", ["c", "w"], ["c2"]),
        node("Conv", ["t", "zero"], ["t2"]),
        node("Sum", ["n2", "c2"], ["y"]),
    ]
    tensors = {
        "zero": np.zeros((3, 3, 1, 1), np.float32),
        "bias": np.full(3, -2.5, np.float32),
        "tiny": np.array(1e-44, np.float32),
        "w": random(4, 3, 1, 1),
    }
    source = model(nodes, tensors, (1, 3, 12, 12), outputs=("y", "t2"))
    result = calibrate(source, images(), CalibrationOptions(method))
    assert result.amax["n"] == 1
    assert result.amax["c"] == pytest.approx(2.5, rel=1e-3)
    assert all(np.isfinite(np.float32(1) / np.float32(scale)) for scale in result.scales.values())
    assert any("n held only zeros" in warning for warning in result.warnings)


@pytest.mark.parametrize("divisor, says", [(0.0, "NaN|infinity"), (1e-38, "infinity")])
def test_a_non_finite_value_names_the_tensor_and_the_image(divisor: float, says: str) -> None:
    nodes = [node("Conv", ["x", "w1"], ["a"]), node("Div", ["a", "d"], ["b"]), node("Conv", ["b", "w2"], ["y"])]
    source = model(nodes, {"w1": W1 * 1000, "w2": W2, "d": np.array(divisor, np.float32)}, (1, 3, 12, 12))
    with pytest.raises(CalibrationError, match=rf"tensor b holds ({says}) at calibration image 1"):
        calibrate(source, images())


@pytest.mark.parametrize(
    "tensors, says",
    [
        (["bb"], "'bb'.*did you mean"),
        (["w1"], "no activation tensor 'w1'"),
        (["i"], "int64.*leave it out"),
        ([], "nothing"),
    ],
)
def test_tensors_without_a_range_are_refused(tensors: Sequence[str], says: str) -> None:
    source = net()
    source.graph.node.append(node("Cast", ["y"], ["i"], to=TensorProto.INT64))
    with pytest.raises(CalibrationError, match=says):
        calibrate(source, images(), tensors=tensors)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CalibrationError, match="'kl': known are entropy, percentile, mse, max, best"):
        calibrate(net(), images(), CalibrationOptions("kl"))


def test_the_file_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    result = calibrate(net(), images())
    result.save(path)
    assert Calibration.load(path) == result
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_reused_only_for_its_model_data_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "calibration.json"
    kept = calibrate(net(), images(), CalibrationOptions(spec=SPEC))
    kept.save(path)
    fresh: list[str] = []

    def counting(*args: object) -> object:
        fresh.append("run")
        return observe(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("edgesparse.int8.calibration.observe", counting)
    assert calibrate(net(), images(), CalibrationOptions(spec=SPEC, saved=path)) == kept and not fresh
    others = [
        calibrate(net(w2=W2 * 2), images(), CalibrationOptions(spec=SPEC, saved=path)),
        calibrate(net(), images(5), CalibrationOptions(spec=SPEC, saved=path)),
        calibrate(net(), images(factor=1.01), CalibrationOptions(spec=SPEC, saved=path)),
        calibrate(net(), images(), CalibrationOptions("max", spec=SPEC, saved=path)),
        calibrate(net(), images(), CalibrationOptions(spec=SPEC, saved=path), tensors=["x"]),
    ]
    assert len(fresh) == len(others)
    assert len({kept.key, *(other.key for other in others)}) == 1 + len(others)
    assert Calibration.load(path) == kept


def _changed(text: str) -> str:
    content = json.loads(text)
    content["tensors"]["x"]["amax"] *= 2
    return json.dumps(content)


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda text: text[: len(text) // 2], "not a calibration of edgesparse"),
        (lambda text: "[1, 2]", "not a calibration of edgesparse"),
        (lambda text: "{}", "not a calibration of edgesparse"),
        (lambda text: "[" * 100_000, "not a calibration of edgesparse"),
        (lambda text: '{"version": ' + "9" * 5000 + "}", "not a calibration of edgesparse"),
        (lambda text: '{"format": "other", "version": 1}', "'other' version 1: needed"),
        (lambda text: text.replace('"version": 1', '"version": 9'), "version 9: needed"),
        (_changed, "damaged"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_clear_error(tmp_path: Path, damage: object, says: str) -> None:
    path = tmp_path / "calibration.json"
    calibrate(net(), images(), CalibrationOptions("max")).save(path)
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    attempts: list[Callable[[], object]] = [
        lambda: Calibration.load(path),
        lambda: calibrate(net(), images(), CalibrationOptions(saved=path)),
    ]
    for attempt in attempts:
        with pytest.raises(CalibrationError, match=says) as refused:
            attempt()
        assert "\n" not in str(refused.value) and "again" in str(refused.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no calibration .*: calibrate first"):
        Calibration.load(tmp_path / "none.json")


def test_memory_holds_a_batch_at_a_time() -> None:
    """Each image is released before the image after next is requested."""
    passed: list[weakref.ref[npt.NDArray[np.float32]]] = []

    def watched() -> Iterator[npt.NDArray[np.float32]]:
        for i in range(8):
            assert sum(ref() is not None for ref in passed) <= 1
            image = random(1, 3, 12, 12, seed=i)
            passed.append(weakref.ref(image))
            yield image
            del image

    calibrate(net(), watched, CalibrationOptions("max"))
    assert len(passed) == 8


def test_a_full_disk_leaves_the_file_as_it_was(small_disk: Path) -> None:
    path = small_disk / "calibration.json"
    kept = calibrate(net(), images(), CalibrationOptions("max"))
    kept.save(path)
    (small_disk / "filler").write_bytes(b"0" * (3 * 2**20 - 16384))
    large = Calibration({f"{i:05}": kept.ranges["x"] for i in range(5000)}, kept.key, kept.images)
    with pytest.raises(OSError, match="No space left"):
        large.save(path)
    assert Calibration.load(path) == kept
    assert {entry.name for entry in small_disk.iterdir()} == {"calibration.json", "filler"}
