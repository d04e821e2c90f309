"""Magnitude pruning: exactly 2:4 afterwards, however weights are stored, and the model uses the pruned weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper
from small_models import HELD, Array, conv, model, node, random, run, stored_as

from edgesparse.errors import WRONG_USE, ModelError, SparsityError
from edgesparse.model.load import load, save
from edgesparse.model.weights import weight_of
from edgesparse.model.wiring import Wiring
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.prune import prune


def weight(source: ModelProto, name: str = "w") -> Array:
    return numpy_helper.to_array(next(t for t in source.graph.initializer if t.name == name))


@settings(max_examples=40)
@given(
    outputs=st.integers(32, 40),
    fours=st.integers(8, 12),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 5), (3,)]),
    dtype=st.sampled_from([np.float32, np.float16]),
    seed=st.integers(0, 99),
)
def test_any_convolution_becomes_2to4_keeps_half_and_then_stays(
    outputs: int, fours: int, kernel: tuple[int, ...], dtype: type[np.floating], seed: int
) -> None:
    dense = random(outputs, 4 * fours, *kernel, seed=seed).astype(dtype)
    nodes = [node("Conv", ["x", "w"], ["y"], "conv")]
    kind = helper.np_dtype_to_tensor_dtype(dense.dtype)
    source = model(nodes, {"w": dense}, (1, 4 * fours, *(8 for _ in kernel)), dtype=kind)
    report = prune(source)
    assert inspect(source).layers[0].state == "sparse"
    assert weight(source).dtype == dtype
    np.testing.assert_array_equal(weight(source), dense * mask_2to4(dense))
    assert report.layers[0].kept >= 0.5 and report.warning is not None
    before = source.SerializeToString()
    again = prune(source)
    assert source.SerializeToString() == before
    assert again.changed == () and again.warning is None and again.layers[0].kept == 1


@pytest.mark.parametrize("kind", HELD)
def test_weights_are_pruned_where_they_are_stored(kind: str) -> None:
    dense = random(64, 48)
    source = stored_as(kind, dense)
    as_read = weight_of(Wiring(source.graph), next(n for n in source.graph.node if n.op_type in ("MatMul", "Gemm")))
    expected = as_read.values * mask_2to4(as_read.values, as_read.axis)
    expected = expected if as_read.axis == 0 else expected.T
    prune(source)
    assert inspect(source).layers[0].state == "sparse"
    x = random(8, 64, seed=9)
    np.testing.assert_allclose(run(source, x)[0], x @ expected.astype(np.float32), rtol=1e-3, atol=1e-3)


def test_pruned_weights_become_the_zero_point() -> None:
    nodes = [
        node("Transpose", ["w"], ["t"]),
        node("DequantizeLinear", ["t", "s", "z"], ["b"], axis=1),
        node("MatMul", ["x", "b"], ["y"]),
    ]
    stored = np.random.default_rng(0).integers(1, 255, (32, 64), np.uint8)
    points = np.arange(100, 132, dtype=np.uint8)
    source = model(nodes, {"w": stored, "s": np.ones(32, np.float32), "z": points}, (8, 64))
    wiring = Wiring(source.graph)
    result = weight_of(wiring, source.graph.node[2])
    keep = result.in_storage(mask_2to4(result.values, result.axis))
    wiring.store("w", np.where(keep, result.stored, result.zero))
    layer = inspect(source).layers[0]
    assert layer.violations == 0 and layer.zeros >= layer.groups * 2


def twins(second: onnx.NodeProto) -> ModelProto:
    """Two readers of one weight: the convolution `a`, and `second` from x to z."""
    nodes = [node("Conv", ["x", "w"], ["y"], "a"), second]
    return model(nodes, {"w": random(64, 64, 1, 1)}, outputs=("y", "z"))


def test_layers_that_share_weights_are_pruned_together_or_not_at_all() -> None:
    source = twins(node("Conv", ["x", "w"], ["z"], "b"))
    before = source.SerializeToString()
    with pytest.raises(SparsityError, match="a shares its weights with b: name both"):
        prune(source, ["a"])
    assert source.SerializeToString() == before
    assert [p.name for p in prune(source).changed] == ["a", "b"]
    assert all(layer.state == "sparse" for layer in inspect(source).layers)


def test_weights_read_along_two_axes_or_by_another_operator_stay_dense() -> None:
    source = model(
        [
            node("MatMul", ["x", "w"], ["y"], "a"),
            node("Gemm", ["x", "w"], ["z"], "b", transB=1),
        ],
        {"w": random(64, 64)},
        (8, 64),
        outputs=("y", "z"),
    )
    assert "b, which reads them along another axis" in str(inspect(source).layers[0].reason)
    with pytest.raises(SparsityError, match="none of this model's 2 layers"):
        prune(source)
    assert "with a Add" in str(inspect(twins(node("Add", ["w", "w"], ["z"]))).layers[0].reason)


@pytest.mark.parametrize(
    ("layers", "words"),
    [(["cone"], "did you mean 'conv'"), (["nothing like it"], "no layer 'nothing like it' in this model$")],
)
def test_a_name_that_matches_no_layer_is_refused(layers: list[str], words: str) -> None:
    with pytest.raises(ModelError, match=words) as refused:
        prune(conv(random(32, 64, 1, 1)), layers)
    assert refused.value.exit_code == WRONG_USE


def test_layers_that_cannot_be_2to4_are_refused_with_the_reason() -> None:
    source = conv(random(64, 1, 3, 3), group=64)
    with pytest.raises(SparsityError, match="inspect lists each layer's reason"):
        prune(source)
    with pytest.raises(SparsityError, match="conv: depthwise"):
        prune(source, ["conv"])


def test_nan_weights_are_refused() -> None:
    dense = random(32, 64, 1, 1)
    dense[3, 5] = np.nan
    with pytest.raises(ModelError, match="conv: weights hold NaN"):
        prune(conv(dense))


def test_only_named_layers_change() -> None:
    nodes = [node("Conv", ["x", "w"], ["h"], "a"), node("Conv", ["h", "v"], ["y"], "b")]
    source = model(nodes, {"w": random(64, 64, 1, 1), "v": random(64, 64, 1, 1, seed=1)})
    prune(source, ["b"])
    assert [layer.state for layer in inspect(source).layers] == ["dense", "sparse"]


def test_every_eligible_layer_of_the_real_network_is_2to4_and_it_still_runs(real: Path) -> None:
    source = onnx.load(real / "models" / "yolox_nano.onnx")
    eligible = inspect(source).eligible
    report = prune(source)
    after = inspect(source)
    assert [layer.name for layer in report.layers] == [layer.name for layer in eligible] and len(eligible) > 60
    assert all(layer.violations == 0 and layer.state == "sparse" for layer in after.eligible)
    assert report.warning is not None and "reconstruct" in report.warning
    assert np.isfinite(run(source)[0]).all()


def test_external_data_is_pruned_and_saved_whole(tmp_path: Path) -> None:
    onnx.save(conv(random(32, 64, 3, 3)), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    source = load(tmp_path / "m.onnx")
    prune(source)
    save(source, tmp_path / "pruned.onnx")
    assert inspect(load(tmp_path / "pruned.onnx")).layers[0].state == "sparse"
    np.testing.assert_array_equal(run(load(tmp_path / "pruned.onnx"))[0], run(source)[0])
    assert inspect(load(tmp_path / "m.onnx")).layers[0].state == "dense"
