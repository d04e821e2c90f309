"""edgesparse's parsers on real output of TensorRT 8.5.3.1, recorded by its driver on an H100 on 2026-11-22.

In data/: four 3x3 convolutions of 128 channels with ReLU, 2:4, 80 x 80, built in FP16 (`fp16-2to4`: the log without
most of the timed tactics, and the inspector's JSON) and in INT8 from edgesparse's table (`int8-2to4`); two with SiLU in
FP16; the table written by TensorRT's own calibration of the chain; the default detector's warnings, FP16 and INT8.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgesparse.backends.tensorrt.inspect import parse
from edgesparse.backends.tensorrt.log import BuildLog
from edgesparse.backends.tensorrt.warnings import readable
from edgesparse.int8 import calibration_table

DATA = Path(__file__).parent / "data"
SEVERITIES = {"V": "VERBOSE", "I": "INFO", "W": "WARNING", "E": "ERROR"}


def taken(name: str, beats: list[int] | None = None) -> BuildLog:
    """The log in data/; lines without a severity continue the previous one."""
    log = BuildLog(None if beats is None else beats.append)
    for severity, text in re.findall(r"^\[(\w)\] (.*(?:\n(?!\[\w\] ).+)*)", (DATA / name).read_text(), re.M):
        log.take(SEVERITIES[severity], text)
    return log


def test_the_log_of_a_build_that_picked_nothing() -> None:
    beats: list[int] = []
    log = taken("trt-8.5.3-fp16-2to4.log", beats)
    assert list(log.eligible) == [f"conv{i} + relu{i}" for i in range(4)]
    assert not log.picked and not log.skipped and not log.warnings and not log.placed
    assert log.timed == 8 and beats == list(range(1, 9)), "a tactic counts once: not when it is set, nor as the fastest"
    assert log.reason() == "it gave no reason"


@pytest.mark.parametrize(
    "name, sparse, precision", [("fp16-2to4", 0, "fp16"), ("int8-2to4", 3, "int8"), ("silu-fp16-2to4", 0, "fp16")]
)
def test_layers_as_the_inspector_tells_them(name: str, sparse: int, precision: str) -> None:
    text = (DATA / f"trt-8.5.3-{name}.json").read_text()
    layers = parse(text)
    convolutions = [layer for layer in layers if layer.name.startswith("conv")]
    assert text.count('"HasSparseWeights": 1') == len(convolutions) > sparse, "it is about weights, not kernels"
    assert [layer.sparse for layer in convolutions] == [i < sparse for i in range(len(convolutions))]
    assert all(layer.kernel.startswith("sm80_xmma_fprop") for layer in convolutions)
    assert {layer.precision for layer in convolutions} == {precision}
    other = [layer for layer in layers if layer not in convolutions]
    assert all((layer.kernel, layer.onnx, layer.sparse) == ("Reformat", (), False) for layer in other)
    assert {layer.device for layer in layers} == {"gpu"}


def test_onnx_nodes_of_fused_layers() -> None:
    silu = parse((DATA / "trt-8.5.3-silu-fp16-2to4.json").read_text())
    assert [layer.onnx for layer in silu if layer.onnx] == [("conv0", "sig0", "mul0"), ("conv1", "sig1", "mul1")]


def test_the_table_that_tensorrt_wrote() -> None:
    data = (DATA / "trt-8.5.3.calibration").read_bytes()
    table = calibration_table.read(data)
    assert (table.version, table.algorithm) == ((8, 5, 3), "EntropyCalibration2")
    assert list(table.scales) == ["x", "c0", "a0", "c1", "a1", "c2", "a2", "c3", "a3"]
    assert table.scales["x"] == pytest.approx(0.03726607, rel=1e-6)
    assert calibration_table.write(table.scales) == data, "ours are laid out like TensorRT's, byte for byte"


def test_warnings_of_a_detector_in_a_few_lines() -> None:
    log = taken("trt-8.5.3-warnings.log")
    assert len(log.warnings) == 21
    assert readable(log.warnings) == (
        "16 tensors without a scale stay float: /head/class_out.2/Conv_output_0, /head/Reshape_5_output_0, "
        "/head/class_out.1/Conv_output_0 and 13 more",
        "INT64 constants are read as INT32",
        "19 weights lose precision in a lower type: detected subnormal FP16 values",
    )
    assert readable(["Missing scale and zero-point for tensor a, b, expect fall back to"]) == (
        "1 tensor without a scale stays float: a, b",
    )
    assert readable(["something else", "something else"]) == ("something else",)
