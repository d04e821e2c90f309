"""How much outputs change: weighted scores and boxes, and lists of detections before their selection."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from small_models import Array, model, node, random, run

from edgesparse.model.outputs import ReferenceOutputs

BATCHES = [random(1, 8, 6, 6, seed=i) for i in range(4)]


def selecting(weight: Array) -> ModelProto:
    """The ten positions with the highest scores, in order, as detection transformers list them."""
    nodes = [
        node("Conv", ["x", "w"], ["features"], "features"),
        node("Reshape", ["features", "flat"], ["rows"]),
        node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
        node("ReduceMax", ["tokens"], ["scores"], axes=[2], keepdims=0),
        node("TopK", ["scores", "k"], ["best", "indices"], axis=1),
        node("Unsqueeze", ["indices", "last"], ["column"]),
        node("Expand", ["column", "shape"], ["index"]),
        node("GatherElements", ["tokens", "index"], ["y"], axis=1),
    ]
    constants = {"flat": [0, 8, -1], "k": [10], "last": [2], "shape": [1, 10, 8]}
    return model(nodes, {"w": weight, **{name: np.array(v) for name, v in constants.items()}}, (1, 8, 6, 6))


def relative_change(before: ModelProto, after: ModelProto) -> float:
    pairs = [(run(before, x)[0], run(after, x)[0]) for x in BATCHES]
    old, new = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return float(((old - new) ** 2).mean() / old.var())


def test_rows_that_change_places_are_not_a_change_of_the_network() -> None:
    weight = random(8, 8, 1, 1)
    original, changed = selecting(weight), selecting(weight * (1 + 0.02 * random(8, 8, 1, 1, seed=1)))
    outputs = ReferenceOutputs(original, lambda: BATCHES)
    assert set(outputs.names) == {"scores", "tokens"}
    assert outputs.change(original) == 0
    assert 0 < outputs.change(changed) < 0.01 < relative_change(original, changed)


@pytest.mark.parametrize("factor", [1.1, 2.0])
def test_without_a_selection_the_outputs_themselves_are_compared(factor: float) -> None:
    weight = random(8, 8, 1, 1)
    original, changed = (
        model([node("Conv", ["x", "w"], ["y"])], {"w": w}, (1, 8, 6, 6)) for w in (weight, weight * factor)
    )
    outputs = ReferenceOutputs(original, lambda: BATCHES)
    assert outputs.names == ["y"] and outputs.change(changed) == pytest.approx((factor - 1) ** 2, rel=0.2)
