"""What trains all weights gets the dense model in the order of the pruned one, and its model is the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto
from small_models import model, node, random, run

from edgesparse.progress import Progress
from edgesparse.refinement import Refinement, Trained
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.page import page
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, reconstruct


def test_all_weights_are_trained_after_the_layers_are_refitted(tmp_path: Path) -> None:
    tensors = {
        "w0": random(32, 3, 1, 1, seed=1),
        "w1": random(32, 32, 1, 1, seed=2),
        "w2": random(32, 32, 1, 1, seed=3),
    }
    nodes = [node("Conv", ["xab"[i], f"w{i}"], ["aby"[i]], f"c{i}") for i in range(3)]
    dense, image = model(nodes, tensors, (1, 3, 8, 8)), random(1, 3, 8, 8, seed=4)
    files = list[Path | None]()

    def refine(original: ModelProto, pruned: ModelProto, checkpoint: Path | None, progress: Progress) -> Trained:
        files.append(checkpoint)
        np.testing.assert_allclose(run(original, image)[0], run(dense, image)[0], rtol=1e-3, atol=1e-4)
        assert not any(layer.sparse for layer in inspect(original).eligible)
        assert all(layer.sparse for layer in inspect(pruned).eligible)
        trained = ModelProto()
        trained.CopyFrom(pruned)
        trained.producer_name = "trained"
        return Trained(trained, {}, Refinement(7, 5, 1, before=2.0, after=1.5))

    options = ReconstructOptions(state_dir=tmp_path)
    result, report = reconstruct(dense, lambda: [image], options, Task(refine=refine))
    assert result.producer_name == "trained" and files[0] is not None and tmp_path in files[0].parents
    words = "trained 7 steps: error on images held out (1 of 5) 25 % lower"
    assert str(report.training) == words and words in page("x.onnx", report)
