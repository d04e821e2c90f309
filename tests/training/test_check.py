"""check_onnx on exported files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgesparse.errors import ModelError, SparsityError
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.training.check import check_onnx


def two_layers(path: Path, *, transposed: bool = False) -> Path:
    """A 2:4 convolution `/body/Conv` and one `/head/out/Conv`; transposed: the mask is along the wrong axis."""
    rng = np.random.default_rng(0)
    body, out = (rng.standard_normal((32, 32, 3, 3)).astype(np.float32) for _ in range(2))
    body *= mask_2to4(body, axis=0 if transposed else 1)
    nodes = [
        helper.make_node("Conv", ["x", "body"], ["y"], "/body/Conv"),
        helper.make_node("Conv", ["y", "out"], ["z"], "/head/out/Conv"),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32, side, side])
        for name, side in (("x", 9), ("z", 5))
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in (("body", body), ("out", out))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_the_report_lists_each_layer(onnx_path: Path) -> None:
    body, out = check_onnx(two_layers(onnx_path)).layers
    assert body.eligible and body.sparse and body.violations == 0
    assert out.eligible and not out.sparse and out.violations > 0


def test_require_names_the_layers_that_violate_the_pattern(onnx_path: Path) -> None:
    two_layers(onnx_path)
    with pytest.raises(SparsityError, match=r"1 of 2 layers are not 2:4: /head/out/Conv \(\d+ of 2304 groups\)"):
        check_onnx(onnx_path, require=True)
    check_onnx(onnx_path, require=True, skip=("/head/*",))


def test_require_catches_a_pattern_along_the_wrong_axis(onnx_path: Path) -> None:
    with pytest.raises(SparsityError, match="/body/Conv") as error:
        check_onnx(two_layers(onnx_path, transposed=True), require=True, skip=("/head/*",))
    assert "\n" not in str(error.value)


def test_require_with_nothing_left_to_check_is_refused(onnx_path: Path) -> None:
    with pytest.raises(SparsityError, match="no layer"):
        check_onnx(two_layers(onnx_path), require=True, skip=("*",))


def test_a_file_that_is_not_onnx_is_refused(onnx_path: Path) -> None:
    onnx_path.write_bytes(b"\xff no model")
    for path in (onnx_path, onnx_path.with_name("absent.onnx")):
        with pytest.raises(ModelError, match=path.name):
            check_onnx(path)


def test_the_check_imports_no_torch() -> None:
    code = "import sys, edgesparse.training.check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
