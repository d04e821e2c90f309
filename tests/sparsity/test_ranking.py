"""Layers are ranked by how much each alone changes the outputs on images that it was not fitted on."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import model, node, random

from edgesparse.progress import quiet
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.ranking import rank
from edgesparse.sparsity.rebuild import FitData, State


@pytest.mark.parametrize("count", [1, 6])
def test_a_layer_is_ranked_on_images_that_it_was_not_fitted_on(count: int, tmp_path: Path) -> None:
    """More inputs than positions: what the layer was fitted on it reproduces, 2:4 or not, and nothing else."""
    shape = (1, 64, 4, 4)
    source = model([node("Conv", ["x", "w"], ["y"], "layer")], {"w": random(8, 64, 3, 3)}, shape)
    batches = [random(*shape, seed=20 + i) for i in range(count)]
    layer = next(layer for layer in inspect(source, {"x": shape}).layers if layer.name == "layer")
    (choice,) = rank(source, {layer: 1.0}, FitData(lambda: iter(batches)), None, State(tmp_path), quiet)
    assert choice.change > 0.1 if count > 1 else choice.change < 0.05
