"""The layers behind confidences: a scale and an offset of what enters the Sigmoid, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto
from patterns import conv, silu, weights
from small_models import Array, model, node, random, run

from edgesparse.int8.score_layers import EVERY, SCALED, UNCHANGED, mapped, score_layers

CLASSES, SCALE, OFFSETS = 3, 0.8, np.array([0.5, -0.3, 0.1])


def batches() -> Sequence[Array]:
    return [random(1, 8, 4, 4, seed=5)]


def listed(source: ModelProto) -> dict[str, list[int]]:
    return {layer.out: layer.classes.tolist() for layer in score_layers(source, batches, CLASSES)}


def network(nodes: Sequence[NodeProto], outputs: Sequence[str], **more: Array) -> ModelProto:
    return model(nodes, more, (1, 8, 4, 4), outputs)


def beside_distances() -> ModelProto:
    """Confidences and distances from one layer, as in NanoDet."""
    nodes = [
        conv("a", "x", "a"),
        node("Split", ["a", "parts"], ["z", "d"], axis=1),
        *(node("Sigmoid", ["z"], ["s"]), node("Reshape", ["s", "flat"], ["r"]), node("Transpose", ["r"], ["y"])),
        *(node("Reshape", ["d", "far"], ["f"]), node("Identity", ["f"], ["boxes"])),
    ]
    nodes[4].attribute.append(node("T", [], [], perm=[0, 2, 1]).attribute[0])
    parts = {"parts": np.array([3, 4]), "flat": np.array([1, 3, -1]), "far": np.array([1, 4, -1])}
    return network(nodes, ("y", "boxes"), **weights("a", 8, 7), **parts)


def joined() -> ModelProto:
    """Two strides, boxes and confidences side by side before they are split again, as in YOLOv8."""
    nodes: list[NodeProto] = [node("MaxPool", ["x"], ["low"], kernel_shape=[2, 2], strides=[2, 2])]
    for stride, source in (("a", "x"), ("b", "low")):
        nodes += [conv(f"{stride}box", source, f"{stride}box"), conv(f"{stride}cls", source, f"{stride}cls")]
        nodes += [node("Concat", [f"{stride}box", f"{stride}cls"], [f"{stride}c"], axis=1)]
        nodes += [node("Reshape", [f"{stride}c", "flat"], [f"{stride}r"])]
    nodes += [node("Concat", ["ar", "br"], ["all"], axis=2), node("Split", ["all", "parts"], ["d", "z"], axis=1)]
    nodes += [node("Sigmoid", ["z"], ["y"]), node("Mul", ["d", "d"], ["boxes"])]
    layers = {name: weights(name, 8, 5 if "box" in name else 3) for name in ("abox", "acls", "bbox", "bcls")}
    tensors = {key: value for each in layers.values() for key, value in each.items()}
    return network(nodes, ("y", "boxes"), parts=np.array([5, 3]), flat=np.array([1, 8, -1]), **tensors)


def transformer() -> ModelProto:
    """A sum of two matrix products with biases, of which the highest are chosen, as in D-FINE."""
    nodes = [
        *(node("Reshape", ["x", "rows"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1])),
        *(node("MatMul", ["t", "cls.m"], ["cls"]), node("Add", ["cls.c", "cls"], ["cls.z"])),
        *(node("MatMul", ["t", "quality.m"], ["quality"]), node("Add", ["quality", "quality.c"], ["quality.z"])),
        *(node("Add", ["cls.z", "quality.z"], ["z"]), node("Sigmoid", ["z"], ["y"])),
        *(node("Flatten", ["y"], ["all"]), node("TopK", ["all", "five"], ["top", "at"])),
        *(node("Cast", ["at"], ["number"], to=1), node("Mul", ["number", "number"], ["boxes"])),
    ]
    layers = {"cls.m": random(8, 3, seed=1), "cls.c": random(3, seed=2)}
    layers |= {"quality.m": random(8, 1, seed=3), "quality.c": random(1, seed=4)}
    return network(nodes, ("y", "top"), rows=np.array([1, 8, 16]), five=np.array([5]), **layers)


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (beside_distances, {"a": [0, 1, 2, *[UNCHANGED] * 4]}),
        (joined, {"acls": [0, 1, 2], "bcls": [0, 1, 2]}),
        (transformer, {"cls": [0, 1, 2], "quality": [SCALED]}),
    ],
)
def test_exactly_what_enters_the_sigmoid_changes(make: Callable[[], ModelProto], layers: dict[str, list[int]]) -> None:
    before = make()
    assert listed(before) == layers
    after = mapped(before, score_layers(before, batches, CLASSES), SCALE, OFFSETS)
    x = random(1, 8, 4, 4, seed=6)
    (old, other), (new, same) = run(before, x), run(after, x)
    shape = [CLASSES if size == CLASSES else 1 for size in old.shape]
    z = np.log(old / (1 - old)) * SCALE + OFFSETS.reshape(shape)
    np.testing.assert_allclose(new, 1 / (1 + np.exp(-z)), atol=1e-5)
    if make is not transformer:
        np.testing.assert_array_equal(same, other)


def objectness(*last: NodeProto, **more: Any) -> ModelProto:
    nodes = [conv("o", "x", "o"), conv("c", "x", "c"), node("Sigmoid", ["o"], ["os"]), node("Sigmoid", ["c"], ["cs"])]
    return network([*nodes, *last], ("y",), **weights("o", 8, 1), **weights("c", 8, 3), **more)


def summed_at_two_strides() -> ModelProto:
    """At each of two strides the sum of an objectness and of classes, joined before the Sigmoid."""
    nodes: list[NodeProto] = [node("MaxPool", ["x"], ["low"], kernel_shape=[2, 2], strides=[2, 2])]
    for stride, source in (("a", "x"), ("b", "low")):
        nodes += [conv(f"{stride}o", source, f"{stride}o"), conv(f"{stride}c", source, f"{stride}c")]
        nodes += [node("Add", [f"{stride}o", f"{stride}c"], [f"{stride}z"])]
        nodes += [node("Reshape", [f"{stride}z", "flat"], [f"{stride}r"])]
    nodes += [node("Concat", ["ar", "br"], ["z"], axis=2), node("Sigmoid", ["z"], ["y"])]
    layers = {name: weights(name, 8, 1 if name.endswith("o") else 3) for name in ("ao", "ac", "bo", "bc")}
    tensors = {key: value for each in layers.values() for key, value in each.items()}
    return network(nodes, ("y",), flat=np.array([1, 3, -1]), **tensors)


def test_each_sum_takes_the_offset_once() -> None:
    before = summed_at_two_strides()
    assert listed(before) == {"ac": [0, 1, 2], "bc": [0, 1, 2], "ao": [SCALED], "bo": [SCALED]}
    x = random(1, 8, 4, 4, seed=6)
    old, new = (run(m, x)[0] for m in (before, mapped(before, score_layers(before, batches, 3), SCALE, OFFSETS)))
    z = np.log(old / (1 - old)) * SCALE + OFFSETS.reshape(1, 3, 1)
    np.testing.assert_allclose(new, 1 / (1 + np.exp(-z)), atol=1e-5)


@pytest.mark.parametrize(
    ("beside", "outputs"),
    [
        ([node("ReduceMax", ["t"], ["best"]), node("Identity", ["best"], ["boxes"])], ("y", "boxes")),
        ([node("Slice", ["t", "one", "two", "last"], ["boxes"])], ("y", "boxes")),  # of one class
        ([], ("y", "t")),
    ],
)
def test_nothing_is_listed_where_confidences_are_read_before_their_sigmoid(
    beside: list[NodeProto], outputs: tuple[str, ...]
) -> None:
    path = [conv("a", "x", "a"), node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1])]
    path += [node("Slice", ["t", "zero", "three", "last"], ["z"]), node("Sigmoid", ["z"], ["y"])]
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "last": 3}
    tensors = {name: np.array([value]) for name, value in numbers.items()}
    assert not listed(network([*path, *beside], outputs, **weights("a", 8, 5), **tensors))


def test_what_is_selected_beside_confidences_stays() -> None:
    path = [conv("a", "x", "a"), node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1])]
    path += [node("Slice", ["t", "zero", "three", "last"], ["z"]), node("Sigmoid", ["z"], ["y"])]
    path += [node("Slice", ["t", "three", "five", "last"], ["boxes"]), node("Shape", ["t"], ["size"])]
    tensors = {name: np.array([value]) for name, value in {"zero": 0, "three": 3, "five": 5, "last": 3}.items()}
    source = network(path, ("y", "boxes"), **weights("a", 8, 5), **tensors)
    assert listed(source) == {"a": [0, 1, 2, UNCHANGED, UNCHANGED]}


def test_objectness_counts_for_every_class() -> None:
    product = objectness(node("Mul", ["os", "cs"], ["y"]))
    assert listed(product) == {"o": [EVERY], "c": [0, 1, 2]}
    after = mapped(product, score_layers(product, batches, CLASSES), 1.0, OFFSETS)
    biases = {tensor.name: np.frombuffer(tensor.raw_data, np.float32) for tensor in after.graph.initializer}
    np.testing.assert_allclose(biases["o.bias"], weights("o", 8, 1)["o.b"] + OFFSETS.mean(), rtol=1e-6)


def test_slices_of_one_layer_may_have_a_sigmoid_each() -> None:
    """As in YOLOv5: objectness and classes are channels of the same convolution."""
    nodes = [conv("a", "x", "a"), node("Split", ["a", "parts"], ["o", "c"], axis=1)]
    nodes += [node("Sigmoid", ["o"], ["os"]), node("Sigmoid", ["c"], ["cs"]), node("Mul", ["os", "cs"], ["y"])]
    source = network(nodes, ("os", "cs", "y"), parts=np.array([1, 3]), **weights("a", 8, 4))
    assert listed(source) == {"a": [EVERY, 0, 1, 2]}
    x = random(1, 8, 4, 4, seed=6)
    before, after = (run(m, x) for m in (source, mapped(source, score_layers(source, batches, 3), SCALE, OFFSETS)))
    for old, new, offset in zip(before[:2], after[:2], (OFFSETS.mean(), OFFSETS.reshape(1, 3, 1, 1)), strict=True):
        z = np.log(old / (1 - old)) * SCALE + offset
        np.testing.assert_allclose(new, 1 / (1 + np.exp(-z)), atol=1e-5)


def test_shared_weights_are_scaled_once_or_not_at_all() -> None:
    both = [node("Sigmoid", ["a"], ["as"]), node("Sigmoid", ["b"], ["bs"]), node("Concat", ["as", "bs"], ["y"], axis=3)]
    layers = [conv("a", "x", "a"), node("Conv", ["x", "a.w", "a.b"], ["b"], "b")]
    source = network([*layers, *both], ("y",), **weights("a", 8, 3))
    assert listed(source) == {"a": [0, 1, 2], "b": [0, 1, 2]}
    x = random(1, 8, 4, 4, seed=6)
    old, new = (run(m, x)[0] for m in (source, mapped(source, score_layers(source, batches, 3), SCALE, OFFSETS)))
    z = np.log(old / (1 - old)) * SCALE + OFFSETS.reshape(1, 3, 1, 1)
    np.testing.assert_allclose(new, 1 / (1 + np.exp(-z)), atol=1e-5)
    other = [*layers[:1], node("Conv", ["x", "a.w"], ["b"], "b"), both[0], node("Concat", ["as", "b"], ["y"], axis=3)]
    assert not listed(network(other, ("y",), **weights("a", 8, 3)))


def test_nothing_is_listed_where_more_than_confidences_would_change() -> None:
    stride = np.array(2.0, np.float32)
    for last in (
        [node("Mul", ["os", "two"], ["y"])],  # boxes: a Sigmoid times a stride
        [node("Mul", ["os", "x"], ["y"])],  # a gate
        [node("Softmax", ["c"], ["p"], axis=1), node("Add", ["os", "p"], ["y"])],
    ):
        assert "o" not in listed(objectness(*last, two=stride))
    scaled = [conv("a", "x", "a"), node("Mul", ["a", "two"], ["z"]), node("Sigmoid", ["z"], ["y"])]
    assert not listed(network(scaled, ("y",), two=stride, **weights("a", 8, 3)))
    read = [conv("a", "x", "a"), node("Sigmoid", ["a"], ["s"]), node("Concat", ["s", "a"], ["y"], axis=1)]
    assert not listed(network(read, ("y",), **weights("a", 8, 3)))
    assert not listed(network([conv("a", "x", "a"), *silu("a", "y")], ("y",), **weights("a", 8, 3)))
    wide = [conv("a", "x", "a"), node("Sigmoid", ["a"], ["y"])]
    assert not listed(network(wide, ("y",), **weights("a", 8, 5)))  # neither one per class nor one for all
