"""ReLU replaces the activations that change the outputs least, in front of which 2:4 pays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto
from small_models import model, node, random

from edgesparse.compress import relu_places
from edgesparse.errors import ModelError
from edgesparse.model.load import Model
from edgesparse.progress import quiet

C = 32


def silu(name: str) -> list[NodeProto]:
    return [node("Sigmoid", [name], [f"{name}_s"]), node("Mul", [name, f"{name}_s"], [f"{name}_y"])]


def branches(weights: dict[str, float]) -> Model:
    """Convolutions beside each other with SiLU behind them, whose outputs count by `weights` in the sum."""
    tensors = {name: random(C, C, 1, 1, seed=i) / 4 for i, name in enumerate(weights)}
    tensors |= {f"{name}_w": np.full((1, C, 1, 1), weight, np.float32) for name, weight in weights.items()}
    nodes = []
    for name in weights:
        nodes += [node("Conv", ["x", name], [f"{name}_c"], f"conv_{name}"), *silu(f"{name}_c")]
        nodes.append(node("Mul", [f"{name}_c_y", f"{name}_w"], [f"{name}_p"]))
    nodes.append(node("Sum", [f"{name}_p" for name in weights], ["y"]))
    return model(nodes, tensors, (1, C, 8, 8))


def batches(count: int = 3) -> list[np.ndarray]:
    return [random(1, C, 8, 8, seed=10 + i) * 2 for i in range(count)]


def test_what_counts_most_in_the_outputs_changes_them_most_and_is_chosen_last(tmp_path: Path) -> None:
    network = branches({"a": 1.0, "b": 0.01, "c": 0.2})
    changes = relu_places.measure(network, batches, None, tmp_path, quiet)
    assert changes["b_c"] < 0.01 * changes["c_c"] < 0.1 * changes["a_c"]
    assert changes["a_c"] < 0.1  # a line in front, a constant behind: ReLU alone would change far more
    for share, chosen in (
        (0.2, ["b_c"]),
        (0.5, ["b_c", "c_c"]),
        (0.9, ["b_c", "c_c", "a_c"]),
        (1, ["b_c", "c_c", "a_c"]),
    ):
        assert relu_places.choose(network, changes, share) == chosen


def test_measurements_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = branches({"a": 1.0, "b": 0.1})
    changes = relu_places.measure(network, batches, None, tmp_path, quiet)
    monkeypatch.setattr(relu_places, "ReferenceOutputs", None)
    assert relu_places.measure(network, batches, None, tmp_path, quiet) == changes


def test_places_that_2to4_needs_come_first(tmp_path: Path) -> None:
    network = branches({"a": 1.0, "b": 0.01, "c": 0.2})
    changes = relu_places.measure(network, batches, None, tmp_path, quiet)
    assert relu_places.choose(network, changes, 0.5, ["a_c"]) == ["a_c", "b_c"]
    assert relu_places.choose(network, changes, 0.2, ["a_c", "c_c"]) == ["c_c"]


def test_without_layers_that_can_be_2to4_a_share_is_refused() -> None:
    with pytest.raises(ModelError, match="pass --relu without a number"):
        relu_places.choose(branches({"a": 1.0}), {}, 0.5)
