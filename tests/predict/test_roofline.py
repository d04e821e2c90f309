"""Fused layers and their roofline: what counts as one layer, what limits it, and what 2:4 can gain."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto
from small_models import model, node, random

from edgesparse.errors import ConfigError, ModelError
from edgesparse.predict.boards import board, board_names, fitted, held_out
from edgesparse.predict.fusion import Work, fused_layers
from edgesparse.predict.roofline import as_dict, gains, least_ms, likely_sparse, predict, predict_all, verdict


def network(after: list[NodeProto], **tensors: np.ndarray) -> ModelProto:
    """A 3x3 convolution of 64 channels, then `after` from c to y."""
    weights = {"w": random(64, 64, 3, 3), **tensors}
    return model([node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]), *after], weights)


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "predict.json"


def test_the_error_that_is_shown_is_the_measured_one() -> None:
    results, error = json.loads(RESULTS.read_text()), asdict(held_out())
    assert error == {name: results["held_out_trtutils"][name] for name in error}
    assert asdict(fitted()) == results["in_boards_yaml"]


SILU = [node("Sigmoid", ["c"], ["s"], "sigmoid"), node("Mul", ["c", "s"], ["y"], "mul")]


def test_a_convolution_with_its_silu_is_one_layer() -> None:
    (work,) = fused_layers(network(SILU))
    assert work == Work("conv", "tensor", 64, 64, 576, 64 * 576, 64 * 64, 64 * 64, True, False, 9)


def test_a_residual_addition_is_fused_into_the_layer_before() -> None:
    (work,) = fused_layers(network([node("Add", ["c", "x"], ["a"]), node("Relu", ["a"], ["y"])]))
    assert (work.name, work.reads, work.writes) == ("conv", 64 * 64, 64 * 64)


def test_nothing_fuses_past_a_tensor_that_something_else_reads() -> None:
    nodes = [node("Relu", ["c"], ["r"], "relu"), node("Concat", ["c", "r"], ["y"], "concat", axis=1)]
    assert [work.name for work in fused_layers(network(nodes))] == ["conv", "relu", "concat"]


def test_shape_changes_q_dq_and_shape_arithmetic_cost_nothing() -> None:
    nodes = [
        node("Shape", ["c"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("Reshape", ["c", "target"], ["flat"]),
        node("QuantizeLinear", ["flat", "one"], ["q"]),
        node("DequantizeLinear", ["q", "one"], ["d"]),
        node("Softmax", ["d"], ["y"], "softmax", axis=1),
    ]
    tensors = {"zero": np.array([0]), "rest": np.array([-1]), "one": np.array(1, np.float32)}
    assert [work.name for work in fused_layers(network(nodes, **tensors))] == ["conv", "softmax"]


def test_depthwise_convolutions_run_on_cuda_cores() -> None:
    (work,) = fused_layers(model([node("Conv", ["x", "w"], ["y"], group=64)], {"w": random(64, 1, 1, 1)}))
    assert (work.kind, work.depth, work.sparse) == ("cuda", 1, False)


def test_an_open_shape_is_refused_with_the_remedy() -> None:
    source = model([node("Conv", ["x", "w"], ["y"], "conv")], {"w": random(32, 64, 1, 1)}, ("n", 64, "h", "w"))
    with pytest.raises(ModelError, match="conv has an open shape"):
        fused_layers(source)
    assert fused_layers(source, {"x": (1, 64, 4, 4)})[0].rows == 16


MATH = Work("math", "tensor", 6400, 512, 4608, 512 * 4608, 6400 * 512, 6400 * 512, True, True)
MEMORY = Work("memory", "move", reads=40_000_000, writes=40_000_000)
LAUNCH = Work("launch", "tensor", 16, 32, 32, 1024, 512, 512, True, True)
SMOOTH = Work("smooth", "tensor", 6400, 512, 4608, 512 * 4608, 6400 * 512, 6400 * 512, True, False)


def test_the_bound_is_named_per_layer_and_for_the_whole() -> None:
    prediction = predict([MATH, MEMORY, LAUNCH], board("orin-nano-8gb"), "fp16")
    assert [layer.bound for layer in prediction.layers] == ["math", "memory", "launch"]
    assert prediction.bound == max(prediction.layers, key=lambda layer: layer.ms).bound
    assert prediction.ms == sum(layer.ms for layer in prediction.layers)


def test_the_time_of_a_layer_is_its_roofline_and_the_launch() -> None:
    nano, reached = board("orin-nano-8gb:15W"), fitted()
    (layer,) = predict([MATH], nano, "int8").layers
    seconds = MATH.macs / (2048 * 8 * 625e6 * reached.math) + reached.layer_clocks / 625e6
    assert layer.ms == pytest.approx(seconds * 1e3)
    (layer,) = predict([MEMORY], nano, "fp16").layers
    seconds = 160e6 / (128 / 8 * 2 * 2133e6 * reached.memory) + reached.layer_clocks / 625e6
    assert layer.ms == pytest.approx(seconds * 1e3)


def test_sparsity_gains_at_most_two_and_nothing_where_no_kernel_fits() -> None:
    predictions = predict_all([MATH, MEMORY, SMOOTH], board("agx-orin-64gb"))
    by_name = {gain.name: gain for gain in gains(predictions)}
    assert set(by_name) == {"math", "smooth"}
    assert by_name["math"].int8_ms > 0 and by_name["smooth"].int8_ms == 0 < by_name["smooth"].relu_ms
    assert predictions["INT8 2:4"].ms > predictions["INT8 2:4 with ReLU"].ms
    assert predictions["FP16 2:4"].ms > predictions["FP16"].ms / 2
    message = json.loads(json.dumps(as_dict(predictions, board("agx-orin-64gb"))))
    assert message["predicted"]["FP16"]["bound"] == "math" and message["board"]["mode"] == "MAXN"


def test_a_layer_fills_whole_tiles_and_waves() -> None:
    nano, reached = board("orin-nano-8gb:15W"), fitted()
    narrow = Work("narrow", "tensor", 128 * 9, 16, 9 * 16, taps=9)
    (layer,) = predict([narrow], nano, "fp16").layers
    products = 16 * 128 * 64 * 9 * 64  # nine tiles are two waves over eight SMs; 16 channels fill tiles of 64
    seconds = products / (1024 * 8 * 625e6 * reached.math) + reached.layer_clocks / 625e6
    assert layer.ms == pytest.approx(seconds * 1e3)
    assert least_ms([narrow], nano, "fp16") == pytest.approx(narrow.macs / (1024 * 8 * 625e6) * 1e3)


def test_the_verdict_has_a_likely_gain_a_greatest_one_and_what_else_saves() -> None:
    predictions = predict_all([MATH, MEMORY, SMOOTH, LAUNCH], board("orin-nano-8gb"))
    fp16, int8, relu, smaller, starting, conclusion = verdict(predictions)
    half, likely, most = (predictions[name].ms for name in ("FP16", "FP16 2:4 where likely", "FP16 2:4"))
    assert fp16.startswith(f"FP16 2:4: saves {half - likely:.2f} to {half - most:.2f} of {half:.2f} ms")
    assert most < likely < half, "SiLU follows one of the two large layers"
    assert "INT8 2:4" in int8 and "at most" in relu and "0.8 times the sides" in smaller
    assert starting.startswith("starting 4 layers takes") and "2:4 may pay off" in conclusion
    assert predictions["INT8 of a smaller input"].ms < predictions["INT8"].ms


def test_where_sparse_kernels_are_likely() -> None:
    """Kernels that an Orin-sized slice picked with ReLU, and an Orin with SiLU (docs/results/orin-slice.md)."""
    wide = Work("conv", "tensor", 1600, 256, 9 * 256, reads=1600 * 256, sparse=True, sparse_int8=True, taps=9)
    narrow = replace(wide, columns=64, depth=9 * 64, reads=1600 * 64)
    assert likely_sparse(wide, "fp16") and likely_sparse(wide, "int8")
    assert not likely_sparse(narrow, "fp16") and likely_sparse(narrow, "int8")
    for precision in ("fp16", "int8"):
        assert not likely_sparse(replace(wide, reads=4 * wide.reads), precision), "a stride of 2"
        assert not likely_sparse(replace(wide, sparse_int8=False), precision), "SiLU"
    assert not likely_sparse(replace(narrow, columns=32), "int8"), "narrow"
    for precision, channels, picked in (
        ("int8", 128, False),
        ("int8", 192, True),
        ("fp16", 64, False),
        ("fp16", 96, True),
    ):
        pointwise = replace(wide, depth=channels, reads=1600 * channels, taps=1)
        assert likely_sparse(pointwise, precision) == picked, (precision, channels)


works = st.builds(
    Work,
    name=st.just("w"),
    kind=st.sampled_from(["tensor", "cuda", "move"]),
    rows=st.integers(1, 10_000),
    columns=st.integers(1, 512),
    depth=st.integers(1, 5000),
    weights=st.integers(0, 10**6),
    reads=st.integers(0, 10**6),
    writes=st.integers(0, 10**6),
    sparse=st.booleans(),
)


@given(works, st.sampled_from(board_names()))
def test_less_precise_or_sparse_is_never_predicted_slower(work: Work, name: str) -> None:
    at = board(name)
    fp32, fp16, int8 = (predict([work], at, precision).ms for precision in ("fp32", "fp16", "int8"))
    assert fp32 >= fp16 >= int8 > 0
    assert predict([work], at, "fp16", True).ms <= fp16


def test_boards_have_the_rates_of_their_datasheets() -> None:
    orin = board("agx-orin-64gb")
    assert 2 * orin.rate("int8", sparse=True) == pytest.approx(170e12, rel=0.01)
    assert orin.bandwidth == pytest.approx(204.8e9)
    assert 2 * board("orin-nano-8gb:15W").rate("int8", sparse=True) == pytest.approx(40e12, rel=0.03)
    assert board("orin-nano-4gb:10W").bandwidth == pytest.approx(34e9, rel=0.01)
    assert "clocks not certain" in str(board("agx-orin-64gb:30W"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("orin-nono-8gb", "did you mean orin-nano-8gb"),
        ("xavier", "known: orin-nano-4gb"),
        ("orin-nano-8gb:99W", "MAXN_SUPER, 25W"),
    ],
)
def test_an_unknown_board_or_mode_is_refused_with_the_known_ones(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        board(name)
