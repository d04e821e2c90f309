"""The Q/DQ file of every pattern passes TensorRT-RTX's parser and builder, without a GPU; CI installs TensorRT-RTX."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import patterns
import pytest
from patterns import PATTERNS

from edgesparse.backends import BuildOptions, backend
from edgesparse.int8.placement import Placement
from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.model.half import to_half

THERE = importlib.util.find_spec("tensorrt_rtx_bindings") or importlib.util.find_spec("tensorrt_rtx")
pytestmark = [
    pytest.mark.rtx,
    pytest.mark.own_process,
    pytest.mark.skipif(THERE is None, reason="no TensorRT-RTX: pip install 'edgesparse[rtx]'"),
]


def built(source: onnx.ModelProto, folder: Path, placement: Placement = "fuse") -> str:
    """The precision of the plan built from `source` in INT8."""
    scales = dict.fromkeys(quantized_tensors(source, placement), 0.05)
    result, _ = quantize(source, scales, placement=placement)
    onnx.save(to_half(result), folder / "model.onnx")
    options = BuildOptions(precision="int8", sparse=True)
    return backend("tensorrt-rtx").build(folder / "model.onnx", folder / "model.engine", options).precision


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern_builds(pattern: str, tmp_path: Path) -> None:
    assert built(PATTERNS[pattern](), tmp_path) == "int8"


def test_grouped_transposed_convolutions_build(tmp_path: Path) -> None:
    assert built(patterns.transposed(group=2), tmp_path) == "int8"


@pytest.mark.parametrize("placement", ["fuse", "sparse"])
def test_the_real_network_builds(placement: Placement, real: Path, tmp_path: Path) -> None:
    assert built(onnx.load(real / "models" / "yolox_nano.onnx"), tmp_path, placement) == "int8"
