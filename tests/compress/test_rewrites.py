"""Each rewrite on its own: the rewritten model computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from small_models import Array, model, node, random, run

from edgesparse.compress.maps import cut
from edgesparse.compress.moves import drop_moves, fold_focus
from edgesparse.compress.padding import pad_channels
from edgesparse.compress.parallel import merge_parallel
from edgesparse.compress.selections import fold_selections
from edgesparse.compress.sites import Inapplicable, Rewrite
from edgesparse.compress.upsample import move_resize
from edgesparse.errors import ModelError


def check(source: ModelProto, rewrite: Rewrite, way: int = 0) -> ModelProto:
    """Rewrite the model at its first site and check that it computes the same."""
    site = next(iter(rewrite(source)))
    changed = site.ways[way].apply()
    onnx.checker.check_model(changed, full_check=True)
    for before, after in zip(run(source), run(changed), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)
    return changed


def operators(source: ModelProto) -> list[str]:
    return sorted(node.op_type for node in source.graph.node)


def bottleneck(shortcut: bool) -> ModelProto:
    """A C2f block: one convolution's output is split in two, one half goes through two more, all parts are
    concatenated."""
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "c0"),
        node("Sigmoid", ["c0"], ["s0"]),
        node("Mul", ["c0", "s0"], ["a0"]),
        node("Split", ["a0", "sizes"], ["left", "right"], "split", axis=1),
        node("Conv", ["right", "w1"], ["c1"], "c1", pads=[1] * 4),
        node("Relu", ["c1"], ["a1"]),
        node("Conv", ["a1", "w2", "b2"], ["c2"], "c2", pads=[1] * 4),
        node("LeakyRelu", ["c2"], ["a2"]),
        node("Add", ["right", "a2"], ["inner"]) if shortcut else node("Identity", ["a2"], ["inner"]),
        node("Concat", ["left", "right", "inner"], ["all"], "concat", axis=1),
        node("Conv", ["all", "w3"], ["y"], "c3"),
    ]
    tensors = {
        "w0": random(8, 6, 1, 1),
        "b0": random(8),
        "sizes": np.array([4, 4]),
        "w1": random(4, 4, 3, 3, seed=1),
        "w2": random(4, 4, 3, 3, seed=2),
        "b2": random(4),
        "w3": random(5, 12, 1, 1, seed=3),
    }
    return model(nodes, tensors, (1, 6, 8, 8))


@pytest.mark.parametrize("shortcut", [True, False], ids=["shortcut", "plain"])
@pytest.mark.parametrize("way", [0, 1], ids=["folded", "two convolutions"])
def test_a_split_becomes_part_of_the_weights(shortcut: bool, way: int) -> None:
    changed = check(bottleneck(shortcut), fold_selections, way)
    assert "Split" not in operators(changed) and operators(changed).count("Conv") == 4 + way


def shuffled(groups: int = 2) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    nodes = [
        node("Reshape", ["x", "grouped"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "flat"], ["s"]),
    ]
    tensors = {"grouped": np.array([1, groups, 8 // groups, 4, 4]), "flat": np.array([1, 8, 4, 4])}
    return nodes, tensors


def test_a_shuffle_and_a_depthwise_convolution_behind_it_are_folded() -> None:
    nodes, tensors = shuffled()
    nodes += [
        node("Slice", ["s", "start", "end", "axis"], ["half"]),
        node("Conv", ["half", "depthwise", "bias"], ["d"], "depthwise", group=4, pads=[1] * 4),
        node("Conv", ["d", "w"], ["y"], "point"),
    ]
    tensors |= {
        "start": np.array([4]),
        "end": np.array([2**31]),
        "axis": np.array([1]),
        "depthwise": random(4, 1, 3, 3),
        "bias": random(4),
        "w": random(3, 4, 1, 1),
    }
    source = model(nodes, tensors, (1, 8, 4, 4))
    changed = check(source, fold_selections)
    assert operators(changed) == ["Conv", "Conv"]


def test_a_shuffle_is_folded_into_the_weights_that_read_it() -> None:
    nodes, tensors = shuffled(4)
    nodes.append(node("Conv", ["s", "w"], ["y"], "point"))
    changed = check(model(nodes, tensors | {"w": random(3, 8, 1, 1)}, (1, 8, 4, 4)), fold_selections)
    assert operators(changed) == ["Conv"]


def test_a_transpose_that_moves_pixels_is_no_shuffle() -> None:
    nodes = [
        node("Reshape", ["x", "grouped"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 1, 2, 4, 3]),
        node("Reshape", ["t", "flat"], ["s"]),
        node("Conv", ["s", "w"], ["y"], "point"),
    ]
    tensors = {"grouped": np.array([1, 2, 4, 4, 4]), "flat": np.array([1, 8, 4, 4]), "w": random(3, 8, 1, 1)}
    assert not list(fold_selections(model(nodes, tensors, (1, 8, 4, 4))))


def test_a_selection_that_is_an_output_stays() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Split", ["c", "sizes"], ["y", "z"], "split", axis=1)]
    tensors = {"w": random(8, 8, 1, 1), "sizes": np.array([4, 4])}
    site = next(iter(fold_selections(model(nodes, tensors, (1, 8, 4, 4), ("y", "z")))))
    for way in site.ways:
        with pytest.raises(Inapplicable, match="Split split"):
            way.apply()


def test_merged_outputs_keep_the_order_of_the_outputs_not_of_the_nodes() -> None:
    nodes = [node("Conv", ["x", "w1"], ["second"], "c1"), node("Conv", ["x", "w2"], ["first"], "c2")]
    tensors = {"w1": random(3, 4, 1, 1), "w2": random(5, 4, 1, 1, seed=1)}
    source = model(nodes, tensors, (1, 4, 6, 6), ("first", "second"))
    merged = next(iter(merge_parallel(source))).ways[0].apply()
    np.testing.assert_allclose(np.concatenate(run(source), 1), run(merged)[0], rtol=1e-4, atol=1e-5)


def branches(outputs: bool) -> ModelProto:
    """Two branches of two convolutions each on one tensor, either added or as two outputs."""
    nodes = []
    tensors: dict[str, Array] = {}
    for branch, count in (("p", 3), ("q", 5)):
        nodes += [
            node("Conv", ["x", f"{branch}1", f"{branch}b"], [f"{branch}c"], f"{branch}1", pads=[1] * 4),
            node("Relu", [f"{branch}c"], [f"{branch}a"]),
            node("Conv", [f"{branch}a", f"{branch}2"], [f"{branch}o"], f"{branch}2"),
        ]
        tensors |= {
            f"{branch}1": random(count, 4, 3, 3, seed=count),
            f"{branch}b": random(count),
            f"{branch}2": random(2, count, 1, 1, seed=count + 1),
        }
    if outputs:
        return model(nodes, tensors, (1, 4, 6, 6), ("po", "qo"))
    return model([*nodes, node("Concat", ["po", "qo"], ["y"], axis=1)], tensors, (1, 4, 6, 6))


def test_convolutions_of_one_tensor_are_merged() -> None:
    source = branches(outputs=True)
    assert operators(check(source, merge_parallel)) == ["Conv", "Conv", "Conv", "Relu"]
    merged = next(iter(merge_parallel(source))).ways[1].apply()
    assert operators(merged) == ["Conv", "Conv", "Relu"] and len(merged.graph.output) == 1
    np.testing.assert_allclose(np.concatenate(run(source), 1), run(merged)[0], rtol=1e-4, atol=1e-5)


def test_merged_convolutions_are_not_followed_into_another_output() -> None:
    site = next(iter(merge_parallel(branches(outputs=False))))
    with pytest.raises(Inapplicable, match="Concat"):
        site.ways[1].apply()


@pytest.mark.parametrize("way", [0, 1], ids=["in front of Resize", "divided"])
def test_a_convolution_of_an_enlarged_map_works_on_the_small_one(way: int) -> None:
    nodes = [
        node("MaxPool", ["x"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["small", "", "scales"], ["large"], "resize", mode="nearest", nearest_mode="floor",
             coordinate_transformation_mode="asymmetric"),
        node("Concat", ["large", "x"], ["both"], "concat", axis=1),
        node("Conv", ["both", "w", "b"], ["c"], "conv"),
        node("Relu", ["c"], ["y"]),
    ]  # fmt: skip
    tensors = {"scales": np.array([1, 1, 2, 2], np.float32), "w": random(3, 8, 1, 1), "b": random(3)}
    changed = check(model(nodes, tensors, (1, 4, 8, 8)), move_resize, way)
    assert operators(changed).count("Conv") == 2 and "Concat" not in operators(changed)


def test_slices_of_pixels_become_a_strided_convolution() -> None:
    nodes = []
    for part in range(4):
        row, column = part % 2, part // 2
        nodes += [
            node("Slice", ["x", f"at{row}", "end", "rows", "step"], [f"r{part}"]),
            node("Slice", [f"r{part}", f"at{column}", "end", "columns", "step"], [f"p{part}"]),
        ]
    nodes += [
        node("Concat", [f"p{part}" for part in range(4)], ["all"], axis=1),
        node("Conv", ["all", "w"], ["y"], "focus", pads=[1] * 4),
    ]
    tensors = {
        "at0": np.array([0]), "at1": np.array([1]), "end": np.array([2**31]), "rows": np.array([2]),
        "columns": np.array([3]), "step": np.array([2]), "w": random(5, 12, 3, 3),
    }  # fmt: skip
    assert operators(check(model(nodes, tensors, (1, 3, 8, 12)), fold_focus)) == ["Conv"]


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ([("Reshape", "s1", {}), ("Reshape", "s2", {})], ["Reshape"]),
        ([("Transpose", "", {"perm": [0, 2, 1]}), ("Transpose", "", {"perm": [1, 0, 2]})], ["Transpose"]),
        ([("Reshape", "s0", {}), ("Transpose", "", {"perm": [0, 2, 1]})], ["Transpose"]),
        ([("Identity", "", {}), ("Reshape", "s1", {})], ["Reshape"]),
    ],
    ids=["reshapes", "transposes", "to the same shape", "identity"],
)
def test_moves_that_cancel_or_repeat_each_other_are_removed(
    nodes: list[tuple[str, str, dict[str, Any]]], left: list[str]
) -> None:
    names = ["x", "m", "y"]
    graph = [
        node(kind, [names[i], *([shape] if shape else [])], [names[i + 1]], f"n{i}", **attributes)
        for i, (kind, shape, attributes) in enumerate(nodes)
    ]
    tensors = {"s0": np.array([2, 3, 4]), "s1": np.array([6, 4]), "s2": np.array([4, 6])}
    assert operators(check(model(graph, tensors, (2, 3, 4)), drop_moves)) == left


def test_a_decoding_that_does_not_begin_with_convolutions_is_refused_by_name() -> None:
    tail = [node("Conv", ["x", "w"], ["c"]), node("Flatten", ["c"], ["f"]), node("Gemm", ["f", "g"], ["y"], "dense")]
    with pytest.raises(ModelError, match="Gemm dense"):
        cut(model(tail, {"w": random(2, 3, 1, 1), "g": random(32, 7)}, (1, 3, 4, 4)))
    with pytest.raises(ModelError, match="read the input x without a convolution"):
        cut(model([node("Sigmoid", ["x"], ["y"])], {}, (1, 3, 4, 4)))


def joined(activation: str, channels: int = 12) -> ModelProto:
    """Two convolutions, one with a shortcut and one before a depthwise convolution, joined for a third."""
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "c0"),
        node(activation, ["c0"], ["a0"]),
        node("Conv", ["a0", "w1"], ["c1"], "c1", pads=[1] * 4),
        node("Add", ["a0", "c1"], ["sum"]),
        node("Conv", ["x", "w2", "b2"], ["c2"], "c2"),
        node(activation, ["c2"], ["a2"]),
        node("Conv", ["a2", "w3"], ["c3"], "c3", pads=[1] * 4, group=5),
        node("Concat", ["sum", "c3"], ["all"], "concat", axis=1),
        node("Conv", ["all", "w4"], ["y"], "c4"),
    ]
    tensors = {
        "w0": random(channels, 6, 1, 1),
        "b0": random(channels),
        "w1": random(channels, channels, 3, 3, seed=1),
        "w2": random(5, 6, 1, 1, seed=2),
        "b2": random(5),
        "w3": random(5, 1, 3, 3, seed=3),
        "w4": random(7, channels + 5, 1, 1, seed=4),
    }
    return model(nodes, tensors, (1, 6, 8, 8))


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
def test_channels_before_a_concat_are_padded_to_whole_blocks(activation: str) -> None:
    """The padded channels hold 0, or 0.5 after a sigmoid: whatever reads them has zero weights there."""
    changed = check(joined(activation), pad_channels)
    weights = {tensor.name: tuple(tensor.dims) for tensor in changed.graph.initializer}
    convs = [node for node in changed.graph.node if node.op_type == "Conv"]
    assert [weights[conv.input[1]][0] for conv in convs[:-1]] == [32] * 4
    assert weights[convs[-1].input[1]] == (7, 64, 1, 1)
    where = [site.where for site in pad_channels(changed)]
    assert where == []  # once padded, nothing is left


def test_whole_blocks_and_outputs_are_not_padded() -> None:
    """Only the sum is in whole blocks; the last convolution is the output."""
    sites = list(pad_channels(joined("Relu", 32)))
    assert [site.ways[0].what for site in sites] == ["1 convolutions padded to whole blocks of 32 channels"] * 2
    check(joined("Relu", 32), pad_channels)
